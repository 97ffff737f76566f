"""CLIP similarity of image and prompt, from any CLIPModel of transformers (CLIP, OpenCLIP, PickScore)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTokenizer
from transformers.image_processing_base import ImageProcessingMixin
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from hn.data.encodings.fingerprint import version
from hn.data.encodings.truncation import TruncationCounter, uncut_lengths
from hn.rewards.contrastive import ContrastiveReward, Scale, number
from hn.rewards.preprocess import ClipPreprocess
from hn.utils.class_path import class_path
from hn.utils.dtype import parse_dtype
from hn.utils.hub import explain_missing, locate, locate_tokenizer
from hn.utils.layers import checkpoint_layers
from hn.utils.weights import load_transformers_model

_VOCABULARY = ("vocab.json", "merges.txt")
_TOKENIZER = "tokenizer_config.json"


class ClipReward(ContrastiveReward):
    """exp(logit_scale) * cos(image features, text features); the published loss is `100 - score`.

    Text features are cached by prompt. `ClipPreprocess` and the cosine are computed in float32 (float64 for float64
    weights), also if the weights are in half precision.

    Args:
        pretrained: Hub id or local folder of a CLIPModel.
        revision: branch, tag or commit on the Hub.
        tokenizer: Hub id or folder of the tokenizer, if it is not beside the model (PickScore).
        dtype: data type of the weights: "float32", "bfloat16", "float16" or "float64".
        scale: "logit" for exp(logit_scale) * cos (about 100 * cos), "percent" for a hundredth of it, "cosine" for cos.
        prompt_cache_size: number of prompts whose features are cached.
        encode_batch_size: most prompts per call of the text tower. With 1, the features of a prompt do not depend on
            the other prompts, bit for bit.
        gradient_checkpointing: recompute the image tower's activations in the backward pass, to save memory.

    Raises:
        FileNotFoundError: if there are no such weights or tokenizer; says how to get them.
        ValueError: if an argument is unknown or out of range, or the weights are not those of a CLIPModel.
    """

    def __init__(
        self,
        pretrained: str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        revision: str | None = None,
        tokenizer: str | None = None,
        dtype: str = "float32",
        scale: Scale = "logit",
        prompt_cache_size: int = 16384,
        encode_batch_size: int = 64,
        gradient_checkpointing: bool = False,
    ):
        super().__init__(scale, prompt_cache_size, encode_batch_size)
        self.text_source = {"pretrained": pretrained, "revision": revision, "tokenizer": tokenizer, "dtype": dtype}
        torch_dtype = parse_dtype(dtype)
        found = locate(pretrained, "config.json", revision)
        with explain_missing(pretrained, revision):
            # In float32 first: half precision would round logit_scale.
            loaded_in = torch.promote_types(torch_dtype, torch.float32)
            self.model = load_transformers_model(CLIPModel, found, revision, loaded_in)
            mean, std = image_normalisation(found, revision)
        tokenizer, tokenizer_revision = (pretrained, revision) if tokenizer is None else (tokenizer, None)
        found = locate_tokenizer(tokenizer, _VOCABULARY, tokenizer_revision)
        with explain_missing(tokenizer, tokenizer_revision):
            self.tokenizer = CLIPTokenizer.from_pretrained(found, revision=tokenizer_revision)
        window = self.model.config.text_config.max_position_embeddings
        self.truncation = TruncationCounter(window, f"the text encoder of {type(self).__name__}", pretrained)
        self.logit_scale = number(self.model.logit_scale)
        self.model.to(torch_dtype)
        self.preprocess = ClipPreprocess(self.model.config.vision_config.image_size, mean, std)
        if gradient_checkpointing:
            checkpoint_layers(self.model.vision_model.encoder.layers)
        self.freeze()

    @classmethod
    def text_fingerprint(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        model: tuple[str, str | None] = (arguments["pretrained"], arguments["revision"])
        tokenizer: tuple[str, str | None] = (arguments["tokenizer"], None)
        if arguments["tokenizer"] is None:
            tokenizer = model
        return {
            "class": class_path(cls),
            "weights": _version(*model, locate(model[0], "config.json", model[1]), "config.json"),
            "tokenizer": _version(*tokenizer, locate_tokenizer(tokenizer[0], _VOCABULARY, tokenizer[1]), _TOKENIZER),
            "dtype": str(parse_dtype(arguments["dtype"])).removeprefix("torch."),
        }

    def drop_text_tower(self) -> None:
        self.model.text_model = self.model.text_projection = None

    def towers(self) -> list[nn.Module]:
        return [self.model]

    def image_layers(self) -> list[nn.Module]:
        return list(self.model.vision_model.encoder.layers)

    def encode_pixels(self, pixel_values: Tensor) -> Tensor:
        return self.model.get_image_features(pixel_values=pixel_values.to(self.model.dtype)).pooler_output

    def encode_tokens(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Features [B, D] of tokenized prompts [B, L]."""
        return self.model.get_text_features(input_ids=input_ids, attention_mask=attention_mask).pooler_output

    def encode_prompts(self, prompts: list[str]) -> Tensor:
        # Padded to the full window, so that the features of a prompt do not depend on the length of others.
        tokens = self.tokenizer(
            prompts,
            padding="max_length",
            max_length=self.truncation.tokens,
            truncation=True,
            return_tensors="pt",
        )
        self.truncation.count(prompts, uncut_lengths(tokens))
        tokens = tokens.to(self.model.device)
        return self.encode_tokens(tokens.input_ids, tokens.attention_mask)


def image_normalisation(pretrained: str, revision: str | None) -> tuple[Sequence[float], Sequence[float]]:
    """Channel mean and std of a repository's image preprocessor, or those of OpenAI's CLIP if it has none."""
    try:
        config, _ = ImageProcessingMixin.get_image_processor_dict(pretrained, revision=revision)
    except OSError:
        config = {}
    return config.get("image_mean", OPENAI_CLIP_MEAN), config.get("image_std", OPENAI_CLIP_STD)


def _version(pretrained: str, revision: str | None, found: str, marker: str) -> str:
    """The version of the weights or tokenizer in a repository or folder; subfolders are ignored."""
    folder = Path(found)
    return version(pretrained, found, revision, marker, [path.name for path in folder.glob("*") if path.is_file()])
