"""Loading a BlipScorer from files in the published format of ImageReward, with strict checks of names and sizes."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BlipTextConfig, BlipVisionConfig

from hn.rewards.blip import BlipScorer
from hn.utils.text import differences, some_of
from hn.utils.weights import read_state_dict

CONFIG_FILE = "med_config.json"
WEIGHTS_FILE = "ImageReward.pt"
POSITION_IDS = "blip.text_encoder.embeddings.position_ids"

_VISION = "blip.visual_encoder."
# What transformers calls the parts of the image tower, and the published code; text towers are named alike.
_VISION_NAMES = (
    ("embeddings.class_embedding", "cls_token"),
    ("embeddings.position_embedding", "pos_embed"),
    ("embeddings.patch_embedding", "patch_embed.proj"),
    ("encoder.layers.", "blocks."),
    (".layer_norm1.", ".norm1."),
    (".layer_norm2.", ".norm2."),
    (".self_attn.projection.", ".attn.proj."),
    (".self_attn.qkv.", ".attn.qkv."),
    ("post_layernorm.", "norm."),
)
_HEAD_WIDTH = 64  # of each attention head of BLIP's ViT-B and ViT-L
_TEXT_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "hidden_act",
    "layer_norm_eps",
    "pad_token_id",
)


def load_scorer(
    folder: Path, config: Mapping[str, Any], vision_heads: int | None = None, dtype: torch.dtype = torch.float32
) -> BlipScorer:
    """The network with the weights in a folder. They are read through a memory map, and nothing is initialised first.

    Args:
        folder: holds `ImageReward.pt`, or one .safetensors file of the same keys.
        config: the folder's `med_config.json`, from `read_config`.
        vision_heads: attention heads of the image tower; by default its width / 64, as in BLIP.
        dtype: of the towers; the head's is float32 at least.

    Raises:
        FileNotFoundError: if there are no weights.
        ValueError: if the file cannot be read, is another model's, or does not fit the sizes; names the keys.
    """
    path = weights_file(folder)
    state = read_state_dict(path)
    try:
        vision = vision_config(state, vision_heads)
        return build_scorer(state, vision, text_config(config, vision.hidden_size), dtype)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def build_scorer(
    state: Mapping[str, Tensor], vision: BlipVisionConfig, text: BlipTextConfig, dtype: torch.dtype = torch.float32
) -> BlipScorer:
    """The network with weights by their published names, which must fit exactly; see `load_scorer`.

    Raises:
        ValueError: if a name is missing or unexpected or a shape differs.
    """
    with torch.device("meta"):
        model = BlipScorer(vision, text)
    names = {name: published_name(name) for name in model.state_dict()}
    positions = torch.arange(text.max_position_embeddings).expand(1, -1)
    shapes = {names[name]: tensor.shape for name, tensor in model.state_dict().items()}
    # The published file has the position ids 0, 1, ...; files that newer versions save have none.
    _check_fit(shapes | ({POSITION_IDS: positions.shape} if POSITION_IDS in state else {}), state)
    if not (positions.is_meta or torch.equal(state.get(POSITION_IDS, positions), positions)):
        raise ValueError(f"{POSITION_IDS} is not 0, 1, ..., which is what the text tower counts with.")
    head_dtype = torch.promote_types(dtype, torch.float32)
    weights = {
        name: state[published].to(head_dtype if name.startswith("mlp.") else dtype) for name, published in names.items()
    }
    model.load_state_dict(weights, strict=True, assign=True)
    model.text_encoder.embeddings.position_ids = positions  # not in the state, so it is still on the meta device
    return model


def published_name(name: str) -> str:
    """What the published checkpoint calls the weight that a BlipScorer calls `name`."""
    if name.startswith("mlp."):
        return "mlp.layers." + name.removeprefix("mlp.")
    name = f"blip.{name}"
    if name.startswith(_VISION):
        for ours, published in _VISION_NAMES:
            name = name.replace(ours, published)
    return name


def published_state_dict(model: BlipScorer) -> dict[str, Tensor]:
    """All weights by their published names, position ids included: what `ImageReward.pt` holds."""
    state = {published_name(name): tensor for name, tensor in model.state_dict().items()}
    return state | {POSITION_IDS: model.text_encoder.embeddings.position_ids}


def vision_config(state: Mapping[str, Tensor], heads: int | None = None) -> BlipVisionConfig:
    """Sizes of the image tower, read off published weights; a number of heads cannot be.

    Raises:
        ValueError: if the weights are another model's, or the number of heads is unknown or does not divide the width.
    """
    blocks = {name.split(".")[3] for name in state if name.startswith(f"{_VISION}blocks.")}
    width, _, _, patch = _shape(state, f"{_VISION}patch_embed.proj.weight", 4)
    _, tokens, _ = _shape(state, f"{_VISION}pos_embed", 3)
    hidden, _ = _shape(state, f"{_VISION}blocks.0.mlp.fc1.weight", 2)
    side = math.isqrt(tokens - 1)
    if side * side != tokens - 1:
        raise ValueError(f"Its image tower has {tokens - 1} patches, which make no square image.")
    if heads is None and width % _HEAD_WIDTH:
        raise ValueError(
            f"Its image tower is {width} wide, no multiple of {_HEAD_WIDTH}: give the number of its attention heads, "
            "which the weights do not show, as vision_heads."
        )
    heads = width // _HEAD_WIDTH if heads is None else heads
    if heads < 1 or width % heads:
        raise ValueError(f"Its image tower is {width} wide; vision_heads must divide that, and {heads} does not.")
    return BlipVisionConfig(
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=len(blocks),
        num_attention_heads=heads,
        image_size=side * patch,
        patch_size=patch,
        hidden_act="gelu",
        layer_norm_eps=1e-6,  # transformers' default is another one
        attn_implementation="eager",
    )


def read_config(path: Path) -> dict[str, Any]:
    """The published `med_config.json`: sizes of the text tower.

    Raises:
        ValueError: if it cannot be read, a size is missing or impossible, or it asks for another kind of tower.
    """
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}.") from error
    if missing := [name for name in _TEXT_SIZES if name not in config]:
        raise ValueError(f"{path} does not say {', '.join(missing)}; it should be ImageReward's {CONFIG_FILE}.")
    if config.get("position_embedding_type", "absolute") != "absolute" or not config.get("add_cross_attention", True):
        raise ValueError(f"{path} asks for another text tower: absolute positions and cross attention are needed.")
    if config["hidden_size"] % config["num_attention_heads"]:
        raise ValueError(
            f"{path}: num_attention_heads {config['num_attention_heads']} does not divide hidden_size "
            f"{config['hidden_size']}."
        )
    return config


def text_config(config: Mapping[str, Any], encoder_width: int) -> BlipTextConfig:
    """Sizes of the text tower, from `read_config`.

    Args:
        config: `med_config.json`. Its `encoder_width` is not used: in the published file it is another ViT's.
        encoder_width: width of the image tokens.
    """
    return BlipTextConfig(
        **{name: config[name] for name in _TEXT_SIZES},
        encoder_hidden_size=encoder_width,
        is_decoder=True,  # what transformers builds cross attention for; the tower is called as an encoder
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation="eager",
        bos_token_id=None,  # this one and the next two are for generation, and by default BERT's
        eos_token_id=None,
        sep_token_id=None,
    )


def weights_file(folder: Path) -> Path:
    """The file of the weights: the folder's one .safetensors file, else `ImageReward.pt`.

    Raises:
        FileNotFoundError: if there is neither.
        ValueError: if there is more than one .safetensors file.
    """
    found = sorted(folder.glob("*.safetensors"))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ValueError(f"{folder} has several files of weights ({names}); keep the one with ImageReward's.")
    if not found and not (folder / WEIGHTS_FILE).is_file():
        raise FileNotFoundError(f"{folder} has {CONFIG_FILE} but no {WEIGHTS_FILE} or .safetensors file beside it.")
    return found[0] if found else folder / WEIGHTS_FILE


def _shape(state: Mapping[str, Tensor], name: str, dimensions: int) -> torch.Size:
    if name not in state or state[name].ndim != dimensions:
        what = f"no {name}" if name not in state else f"{name} is {list(state[name].shape)}"
        raise ValueError(f"These are not ImageReward's weights: {what}; it has {some_of(state)}.")
    return state[name].shape


def _check_fit(shapes: Mapping[str, torch.Size], state: Mapping[str, Tensor]) -> None:
    differing = [
        f"{name} {list(state[name].shape)} instead of {list(shape)}"
        for name, shape in shapes.items()
        if name in state and state[name].shape != shape
    ]
    missing, unexpected = shapes.keys() - state.keys(), state.keys() - shapes.keys()
    problems = differences({"missing": missing, "unexpected": unexpected, "of another shape": differing})
    if problems:
        raise ValueError(f"The weights do not fit ImageReward of the sizes in {CONFIG_FILE}: {problems}.")
