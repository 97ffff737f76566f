"""CLIP similarity of image and prompt, with models of open_clip."""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor, nn
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from hn.data.encodings.fingerprint import fingerprint
from hn.data.encodings.truncation import TruncationCounter
from hn.rewards.contrastive import ContrastiveReward, Scale, number
from hn.rewards.preprocess import ClipPreprocess
from hn.utils.class_path import class_path
from hn.utils.dtype import parse_dtype
from hn.utils.files import expand_home
from hn.utils.hub import Repository, locate_file
from hn.utils.layers import checkpoint_layers
from hn.utils.weights import assign_state_dict, is_without_weights, read_state_dict

_VOCABULARY = 49408  # of CLIP, and of open_clip's bundled tokenizer
_OTHER_CLASSES = ("custom_text", "multimodal_cfg")  # say that a config is not of `open_clip.CLIP`
_TEXT_TOWER = ("transformer", "token_embedding", "positional_embedding", "ln_final", "text_projection", "attn_mask")
_PREPROCESSING = {"interpolation": "bicubic", "resize_mode": "shortest"}


class OpenClipReward(ContrastiveReward):
    """exp(logit_scale) * cos(image features, text features) of an open_clip model with open_clip's own towers.

    Text features are cached by prompt; open_clip's tokenizer truncates prompts to the model's context length.
    `ClipPreprocess` and the cosine are computed in float32 (float64 for float64 weights), also if the weights are in
    half precision. The model is built without random initialisation, and its weights are memory-mapped.

    Args:
        architecture: a name that `open_clip.list_models()` has, or the path of an open_clip JSON config.
        pretrained: a tag that `open_clip.list_pretrained()` has for the architecture; or a file of weights
            (.safetensors, or .pt and .bin without code); or the Hub id of, or a folder with, one of `weight_files`.
        revision: branch, tag or commit on the Hub.
        dtype: data type of the weights: "float32", "bfloat16", "float16" or "float64".
        scale: "logit" for exp(logit_scale) * cos (about 100 * cos), "percent" for a hundredth of it, "cosine" for cos.
        prompt_cache_size: number of prompts whose features are cached.
        encode_batch_size: most prompts per call of the text tower. With 1, the features of a prompt do not depend on
            the other prompts, bit for bit.
        gradient_checkpointing: recompute the image tower's activations in the backward pass, to save memory.
        weight_files: possible names of the weights in a repository or folder; the first that exists is used.

    Raises:
        FileNotFoundError: if there are no such weights; says how to get them.
        ValueError: if an argument is unknown or out of range, the architecture has towers or preprocessing of another
            kind (SigLIP, CoCa, timm, ...), or the weights are not its own.
    """

    def __init__(
        self,
        architecture: str = "ViT-H-14",
        pretrained: str = "laion2b_s32b_b79k",
        revision: str | None = None,
        dtype: str = "float32",
        scale: Scale = "logit",
        prompt_cache_size: int = 16384,
        encode_batch_size: int = 64,
        gradient_checkpointing: bool = False,
        weight_files: Sequence[str] = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
    ):
        super().__init__(scale, prompt_cache_size, encode_batch_size)
        self.text_source = {"architecture": architecture, "pretrained": pretrained, "revision": revision}
        self.text_source |= {"dtype": dtype, "weight_files": weight_files}
        torch_dtype = parse_dtype(dtype)
        described = read_architecture(architecture, pretrained)
        self.model = build_model(described.config)
        if gradient_checkpointing and not isinstance(self.model.visual, open_clip.transformer.VisionTransformer):
            raise ValueError(f"The image tower of {architecture} has no layers to checkpoint.")
        if not is_without_weights():
            weights = read_state_dict(_locate_weights(architecture, pretrained, revision, weight_files))
            # Saved from a distributed run, names begin with "module.".
            weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
            assign_state_dict(self.model, weights, pretrained, f"open_clip's {architecture}")
        self.logit_scale = number(self.model.logit_scale)
        self.model.to(torch_dtype)
        window = self.model.context_length
        self.tokenizer = CountingTokenizer(context_length=window)
        self.truncation = TruncationCounter(window, f"the text encoder of {type(self).__name__}", pretrained)
        self.preprocess = ClipPreprocess(described.image_size, described.mean, described.std)
        if gradient_checkpointing:
            checkpoint_layers(self.model.visual.transformer.resblocks)
        self.freeze()

    @classmethod
    def repositories(cls, arguments: Mapping[str, Any]) -> Iterator[Repository]:
        tag = open_clip.get_pretrained_cfg(arguments["architecture"], arguments["pretrained"])
        if not tag:
            yield from super().repositories(arguments)
        elif repository := tag.get("hf_hub", "").rpartition("/")[0]:
            yield Repository(repository)

    @classmethod
    def text_fingerprint(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        architecture, pretrained = arguments["architecture"], arguments["pretrained"]
        config = read_architecture(architecture, pretrained).config
        file = _locate_weights(architecture, pretrained, arguments["revision"], arguments["weight_files"])
        return {
            "class": class_path(cls),
            "weights": f"sha256:{fingerprint(file.parent, [file.name])}",
            "architecture": {name: config.get(name) for name in ("embed_dim", "text_cfg", "quick_gelu")},
            "dtype": str(parse_dtype(arguments["dtype"])).removeprefix("torch."),
        }

    def drop_text_tower(self) -> None:
        for name in _TEXT_TOWER:
            setattr(self.model, name, None)

    def towers(self) -> list[nn.Module]:
        return [self.model]

    def image_layers(self) -> list[nn.Module]:
        visual = self.model.visual  # a ResNet has no layers that repeat
        return list(visual.transformer.resblocks) if hasattr(visual, "transformer") else []

    def encode_pixels(self, pixel_values: Tensor) -> Tensor:
        return self.model.encode_image(pixel_values.to(self.model.logit_scale.dtype))

    def encode_tokens(self, input_ids: Tensor) -> Tensor:
        """Features [B, D] of tokenized prompts [B, L]."""
        return self.model.encode_text(input_ids)

    def encode_prompts(self, prompts: list[str]) -> Tensor:
        self.tokenizer.lengths.clear()
        tokens = self.tokenizer(prompts)
        self.truncation.count(prompts, self.tokenizer.lengths)
        return self.encode_tokens(tokens.to(self.model.logit_scale.device))


class CountingTokenizer(open_clip.SimpleTokenizer):
    """open_clip's tokenizer, which truncates prompts silently, with a record of their lengths.

    Attributes:
        lengths: number of tokens of each text of the last calls, with start and end tokens, before truncation.
    """

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.lengths: list[int] = []

    def encode(self, text: str) -> list[int]:
        tokens = super().encode(text)
        self.lengths.append(len(tokens) + 2)
        return tokens


@dataclass(frozen=True)
class Architecture:
    """Description of an open_clip model without its weights.

    Attributes:
        config: arguments of `open_clip.CLIP`.
        mean: of the image channels.
        std: of the image channels.
    """

    config: dict[str, Any]
    mean: Sequence[float]
    std: Sequence[float]

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        return self.config["vision_cfg"].get("image_size", 224)


def read_architecture(architecture: str, pretrained: str = "") -> Architecture:
    """The architecture from open_clip or a JSON file in its format; a tag of weights adds normalisation and activation.

    Raises:
        FileNotFoundError: if there is no such JSON file.
        ValueError: if the name is unknown, or the model is of a kind that `OpenClipReward` does not score.
    """
    if architecture.endswith(".json"):
        path = expand_home(architecture)
        if not path.is_file():
            raise FileNotFoundError(
                f"There is no file {path}; give an open_clip JSON config, or a name like 'ViT-H-14'."
            )
        try:
            content = json.loads(path.read_text())
            config, preprocessing = content.get("model_cfg", content), content.get("preprocess_cfg", {})
        except (json.JSONDecodeError, AttributeError) as error:
            raise ValueError(f"{path} is not an open_clip JSON config: {error}.") from error
    else:
        if architecture not in open_clip.list_models():
            close = difflib.get_close_matches(architecture, open_clip.list_models())
            hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
            raise ValueError(f"open_clip has no model {architecture!r}.{hint} `open_clip.list_models()` lists all.")
        config = open_clip.get_model_config(architecture)
        preprocessing = open_clip.get_pretrained_cfg(architecture, pretrained)
        if preprocessing:
            config["quick_gelu"] = preprocessing.get("quick_gelu", False)
    if missing := {"embed_dim", "vision_cfg", "text_cfg"} - config.keys():
        raise ValueError(f"{architecture} is not an open_clip config: {sorted(missing)} are missing.")
    _check_supported(architecture, config, preprocessing)
    mean, std = preprocessing.get("mean", OPENAI_CLIP_MEAN), preprocessing.get("std", OPENAI_CLIP_STD)
    return Architecture(config, mean, std)


def build_model(config: dict[str, Any]) -> open_clip.CLIP:
    """The model with its parameters on the meta device, to avoid random initialisation.

    Raises:
        ValueError: if open_clip does not know an option of the config.
    """
    known = {name: value for name, value in config.items() if name not in _OTHER_CLASSES}
    try:
        with torch.device("meta"):
            model = open_clip.CLIP(**known)
    except TypeError as error:
        raise ValueError(f"open_clip cannot build this model: {error}.") from error
    # The only buffer that is in no checkpoint: nothing attends to later tokens.
    length = model.context_length
    model.attn_mask = torch.full((length, length), -torch.inf).triu_(1)
    return model


def _check_supported(architecture: str, config: dict[str, Any], preprocessing: dict[str, Any]) -> None:
    vision, text = config["vision_cfg"], config["text_cfg"]
    tokenizer = ("hf_tokenizer_name", "tokenizer_kwargs")
    others = [key for key in (*_OTHER_CLASSES, "init_logit_bias") if config.get(key)]
    others += [key for key in ("timm_model_name", "output_tokens") if vision.get(key)]
    others += [key for key in ("hf_model_name", *tokenizer, "no_causal_mask") if text.get(key)]
    others += [
        f"{key}: {preprocessing[key]}" for key, own in _PREPROCESSING.items() if preprocessing.get(key, own) != own
    ]
    if others:
        raise ValueError(
            f"{architecture} is more than open_clip's own towers and CLIP's preprocessing ({', '.join(others)}), which "
            "OpenClipReward does not score; some such models come as a CLIPModel for hn.rewards.clip.ClipReward."
        )
    if not isinstance(vision.get("image_size", 224), int):
        raise ValueError(f"{architecture} takes images of {vision['image_size']} pixels; only squares can be scored.")
    if text.get("vocab_size", _VOCABULARY) != _VOCABULARY:
        raise ValueError(f"{architecture} knows {text['vocab_size']} tokens, open_clip's tokenizer has {_VOCABULARY}.")


def _locate_weights(architecture: str, pretrained: str, revision: str | None, names: Sequence[str]) -> Path:
    if (file := expand_home(pretrained)).is_file():
        return file
    if tag := open_clip.get_pretrained_cfg(architecture, pretrained):
        repository, _, name = tag.get("hf_hub", "").rpartition("/")  # "owner/name/" or "owner/name/file"
        if not repository:
            raise ValueError(f"{pretrained} is not on the Hub; download {tag['url']} and give the file's path.")
        return locate_file(repository, [name] if name else names, revision)
    if "/" not in pretrained and not file.exists():
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        known = f"its tags are {', '.join(tags)}" if tags else "it has no tags"
        raise ValueError(f"{pretrained!r} is no tag of {architecture}, no file and no folder; {known}.")
    return locate_file(pretrained, names, revision)
