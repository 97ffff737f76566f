"""Prompt sets and how they reach the trainer."""

from importlib import import_module
from typing import Any

_MODULES = {
    "Prompt": "prompts",
    "PromptBatch": "prompts",
    "PromptDataModule": "module",
    "PromptDataset": "prompts",
    "collate_prompts": "prompts",
    "read_prompts": "formats",
}


def __getattr__(name: str) -> Any:
    """Import on demand: the modules behind `hn prompts list` need no PyTorch, and come through this package."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
