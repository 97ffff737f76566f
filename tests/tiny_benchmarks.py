"""Tiny random checkpoints of benchmark metrics' models, of the real classes, in their published layouts."""

from pathlib import Path
from string import ascii_lowercase
from typing import Any

import torch
from transformers import (
    BlipConfig,
    BlipForQuestionAnswering,
    CLIPTokenizer,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessor,
    Owlv2Processor,
    PreTrainedModel,
)

from tests import tiny_rewards

BLIP_TOKENS = (*tiny_rewards.BERT_SPECIAL, "a", "the", "red", "green", "cube", "ball", "?", "yes", "no")


def blip_vqa(folder: Path, seed: int = 31) -> dict[str, Any]:
    """For BlipVqaMetric: images of 32 pixels, and a BERT tokenizer of BLIP_TOKENS without BLIP's own two."""
    n_tokens = tiny_rewards.bert_tokenizer(folder, BLIP_TOKENS)
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {name: BLIP_TOKENS.index(f"[{name.upper()}]") for name in ("pad", "sep")}
    text = {**size, **{f"{name}_token_id": i for name, i in ids.items()}, "bos_token_id": n_tokens}
    text |= {"vocab_size": n_tokens + 2, "max_position_embeddings": 40, "encoder_hidden_size": 32}
    vision = {**size, "image_size": 32, "patch_size": 8}
    _write(folder, BlipForQuestionAnswering, BlipConfig(text_config=text, vision_config=vision), seed)
    return {"pretrained": str(folder), "image_size": None}


def owlv2(folder: Path, seed: int = 32) -> dict[str, Any]:
    """For Owlv2Detector: 36 boxes in images of 48 pixels; a CLIP tokenizer of letters that pads with "!", token 0."""
    letters = [letter + end for letter in ascii_lowercase for end in ("", "</w>")]
    tokens = ["!", *letters, "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], pad_token="!")
    size = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**size, "vocab_size": len(tokens), "max_position_embeddings": 40}
    text |= {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    vision = {**size, "image_size": 48, "patch_size": 8}
    config = Owlv2Config(text_config=text, vision_config=vision, projection_dim=16)
    _write(folder, Owlv2ForObjectDetection, config, seed)
    Owlv2Processor(Owlv2ImageProcessor(size={"height": 48, "width": 48}), tokenizer).save_pretrained(folder)
    return {"pretrained": str(folder)}


def _write(folder: Path, model_class: type[PreTrainedModel], config: Any, seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config)
        for parameter in model.parameters():  # livelier than their own initialisation, so that scores differ
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=1.5 * parameter[0].numel() ** -0.5)
    model.save_pretrained(folder)
