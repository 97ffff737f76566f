"""Tiny random vision-language models of the real transformers classes, each written to a folder with its processor.

The tokenizer has one token for each byte, for each of WORDS with and without a space before it, and Qwen's special
ones, so that any text can be asked. An image token is 8 x 8 pixels of an image of at most 64 x 64 in area.
"""

from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from torch import nn
from transformers import (
    BaseVideoProcessor,
    GenerationConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PreTrainedModel,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

WORDS = ("Yes", "yes", "No", "no", "Score", "red")
# Ids after those of bytes and words, in this order; <|endoftext|> pads.
SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|image_pad|>", "<|video_pad|>", "<image>", "<video>"),
)
# As in the published repositories: a system message, the image before its text, and the start of the answer.
CHAT_TEMPLATE = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "IMAGE{% else %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN_TEMPLATE = CHAT_TEMPLATE.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
PIXELS = {"shortest_edge": 4 * 64, "longest_edge": 64 * 64}
MROPE = {"type": "mrope", "mrope_section": [2, 3, 3]}


def tokenizer() -> Qwen2Tokenizer:
    vocabulary = {byte: i for i, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges: dict[tuple[str, str], None] = {}
    for word in WORDS:
        joined = word[0]
        for letter in word[1:]:
            merges[joined, letter] = None
            joined += letter
            vocabulary.setdefault(joined, len(vocabulary))
    for word in WORDS:
        merges["Ġ", word] = None
        vocabulary[f"Ġ{word}"] = len(vocabulary)
    vocabulary |= {token: len(vocabulary) + i for i, token in enumerate(SPECIAL)}
    return Qwen2Tokenizer(
        vocab=vocabulary, merges=list(merges), eos_token="<|im_end|>", additional_special_tokens=list(SPECIAL)
    )


def qwen2_vl(folder: Path, seed: int = 11) -> Path:
    """A Qwen2VLForConditionalGeneration."""
    vision = {"depth": 2, "embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2, "num_heads": 2, "patch_size": 4}
    config = Qwen2VLConfig(text_config=_text(rope_parameters=dict(MROPE)), vision_config=vision, **_special())
    return _write(folder, Qwen2VLForConditionalGeneration, config, _qwen_processor(Qwen2VLProcessor), seed)


def qwen2_5_vl(folder: Path, seed: int = 12) -> Path:
    """A Qwen2_5_VLForConditionalGeneration."""
    vision = {"depth": 2, "hidden_size": 16, "out_hidden_size": 32, "intermediate_size": 24, "num_heads": 2}
    vision |= {"patch_size": 4, "window_size": 16, "fullatt_block_indexes": [1]}
    config = Qwen2_5_VLConfig(text_config=_text(rope_parameters=dict(MROPE)), vision_config=vision, **_special())
    return _write(folder, Qwen2_5_VLForConditionalGeneration, config, _qwen_processor(Qwen2_5_VLProcessor), seed)


def qwen3_vl(folder: Path, seed: int = 15) -> Path:
    """A Qwen3VLForConditionalGeneration."""
    vision = {"depth": 2, "hidden_size": 16, "out_hidden_size": 32, "intermediate_size": 24, "num_heads": 2}
    vision |= {"patch_size": 4, "num_position_embeddings": 64, "deepstack_visual_indexes": [0]}
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    text = {**_text(rope_parameters=rope), "head_dim": 16}
    config = Qwen3VLConfig(text_config=text, vision_config=vision, **_special())
    processor = _qwen_processor(Qwen3VLProcessor, Qwen3VLVideoProcessor)
    return _write(folder, Qwen3VLForConditionalGeneration, config, processor, seed)


def llava_onevision(folder: Path, seed: int = 13) -> Path:
    """A LlavaOnevisionForConditionalGeneration: a SigLIP tower and Qwen2."""
    ids = tokenizer()
    pinpoints = [[16, 16], [16, 32], [32, 16], [32, 32]]
    vision = {"model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 24, "image_size": 16}
    vision |= {"num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 4, "vision_use_head": False}
    config = LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **_text()},
        vision_config=vision,
        image_token_index=ids.convert_tokens_to_ids("<image>"),
        video_token_index=ids.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pinpoints,
    )
    processor = LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(size={"height": 16, "width": 16}, image_grid_pinpoints=pinpoints),
        ids,
        LlavaOnevisionVideoProcessor(size={"height": 16, "width": 16}),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE.replace("IMAGE", "<image>\n"),
    )
    return _write(folder, LlavaOnevisionForConditionalGeneration, config, processor, seed)


def _text(**options: Any) -> dict[str, Any]:
    ids = tokenizer()
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "max_position_embeddings": 8192}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    special = {"vocab_size": len(ids), "pad_token_id": ids.pad_token_id, "eos_token_id": ids.eos_token_id}
    return size | heads | special | {"bos_token_id": None} | options


def _special() -> dict[str, int]:
    ids, kinds = tokenizer(), {"image": "image_pad", "video": "video_pad"}
    kinds |= {"vision_start": "vision_start", "vision_end": "vision_end"}
    return {f"{kind}_token_id": ids.convert_tokens_to_ids(f"<|{token}|>") for kind, token in kinds.items()}


def _qwen_processor(
    processor_class: type[ProcessorMixin], video_processor: type[BaseVideoProcessor] = Qwen2VLVideoProcessor
) -> ProcessorMixin:
    options = {"size": dict(PIXELS), "patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}
    images, videos = Qwen2VLImageProcessor(**options), video_processor(**options)
    return processor_class(images, tokenizer(), videos, chat_template=QWEN_TEMPLATE)


def _write(folder: Path, model_class: type[PreTrainedModel], config: Any, processor: ProcessorMixin, seed: int) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config)
        for parameter in model.parameters():  # livelier than their own initialisation, so that scores differ
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=1.5 * parameter[0].numel() ** -0.5)
    # As Qwen's: sampling that a score must not use.
    ids = {"eos_token_id": processor.tokenizer.eos_token_id, "pad_token_id": processor.tokenizer.pad_token_id}
    model.generation_config = GenerationConfig(do_sample=True, temperature=0.5, top_k=5, repetition_penalty=1.05, **ids)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def hub_name(name: str) -> str:
    """What the repositories of Qwen and HPSv3 call a weight of Qwen2VLForConditionalGeneration: its older name."""
    return name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")
