"""Prompt sets and how they reach the trainer."""

from hn.data.formats import read_prompts
from hn.data.module import PromptDataModule
from hn.data.prompts import Prompt, PromptBatch, PromptDataset, collate_prompts

__all__ = ["Prompt", "PromptBatch", "PromptDataModule", "PromptDataset", "collate_prompts", "read_prompts"]
