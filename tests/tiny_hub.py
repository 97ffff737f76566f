"""Stand-ins for repositories on the Hub: tiny random weights of the same classes, in the same files and layout.

`substitute` puts them into a configuration, so that experiments on full-size generators run as they are written.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import save_file
from torch import nn

from tests import tiny_pipelines as tiny
from tests import tiny_rewards

HEIGHT, WIDTH = 32, 64  # of images, in the place of 512 and more; every tiny pipeline can do it
FLUX2_TEXT_LAYERS = (9, 18, 27)

# Writes a repository into a folder; the node is the mapping that names it, with `file`, `variant` and the like.
Writer = Callable[[Path, dict[str, Any]], None]


def substitute(config: Any, folder: Path) -> Any:
    """A configuration that is `config` with stand-ins for every reward and `pretrained: <Hub id>`, and small images.

    Args:
        config: mappings and lists, as read from YAML; left as it is.
        folder: where stand-ins are written, each once; share it between calls.

    Raises:
        KeyError: if there is no stand-in for a repository.
    """
    if isinstance(config, list):
        return [substitute(item, folder) for item in config]
    if not isinstance(config, dict):
        return config
    if (reward := config.get("class_path")) in REWARDS:
        return config | {"init_args": config.get("init_args", {}) | REWARDS[reward](folder / reward)}
    config = {key: substitute(value, folder) for key, value in config.items()}
    name = config.get("pretrained")
    if isinstance(name, str) and not name.startswith("$"):
        if name not in STAND_INS:
            raise KeyError(f"tests/tiny_hub.py has no stand-in for {name!r}.")
        config["pretrained"] = str(_written(name, config, folder))
        if "height" in config:
            config |= {"height": HEIGHT, "width": WIDTH}
    return config


def _written(name: str, node: dict[str, Any], folder: Path) -> Path:
    options = (str(node[key]) for key in ("variant", "file") if node.get(key) is not None)
    place = folder / "--".join([name.replace("/", "--"), *options])
    if not place.is_dir():
        place.mkdir(parents=True)
        with torch.random.fork_rng():
            torch.manual_seed(len(STAND_INS) + sorted(STAND_INS).index(name))
            STAND_INS[name](place, node)
    return place


def _pipeline(build: Callable[[], DiffusionPipeline], **scheduler: Any) -> Writer:
    """A whole pipeline, with entries of the scheduler's configuration as the repository has them."""

    def write(folder: Path, node: dict[str, Any]) -> None:
        pipe = build()
        pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, **scheduler)
        pipe.save_pretrained(folder, variant=node.get("variant"))

    return write


def _sdxl_base() -> DiffusionPipeline:
    pipe = tiny.stable_diffusion_xl()
    pipe.scheduler = diffusers.EulerDiscreteScheduler(timestep_spacing="leading", steps_offset=1, **tiny.BETAS)
    return pipe


def _file_of_weights(build: Callable[[], nn.Module]) -> Writer:
    """The weights of a network alone, without its configuration."""
    return lambda folder, node: save_file(build().state_dict(), folder / node["file"])


def _unet_of_lcm_sdxl(folder: Path, node: dict[str, Any]) -> None:
    tiny.stable_diffusion_xl_lcm().unet.save_pretrained(folder, variant=node.get("variant"))


def _pixart(folder: Path, node: dict[str, Any]) -> None:
    pipe = tiny.pixart()
    pipe.scheduler = diffusers.DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear")
    pipe.save_pretrained(folder, variant=node.get("variant"))
    _rename_class(folder / "model_index.json", folder / "transformer" / "config.json")


def _pixart_dmd(folder: Path, node: dict[str, Any]) -> None:
    # The repository has a .bin, and no text encoder.
    tiny.pixart().transformer.save_pretrained(folder / node["subfolder"], safe_serialization=False)
    _rename_class(folder / node["subfolder"] / "config.json")


def _rename_class(*files: Path) -> None:
    """PixArt's repositories are older than the name PixArtTransformer2DModel."""
    for file in files:
        content = json.dumps(json.loads(file.read_text()))
        assert "PixArtTransformer2DModel" in content
        file.write_text(content.replace("PixArtTransformer2DModel", "Transformer2DModel"))


def _qwen_image_lightning(folder: Path, node: dict[str, Any]) -> None:
    """A LoRA with the repository's names: lora_down, lora_up and alpha of linear layers."""
    tensors = {}
    for name, layer in tiny.qwen_image().transformer.named_modules():
        if name.startswith("transformer_blocks.0.attn.to_") and isinstance(layer, nn.Linear):
            out_features, in_features = layer.weight.shape
            tensors[f"{name}.lora_down.weight"] = torch.randn(2, in_features)
            tensors[f"{name}.lora_up.weight"] = torch.randn(out_features, 2)
            tensors[f"{name}.alpha"] = torch.tensor(2.0)
    save_file(tensors, folder / node["file"])


STAND_INS: dict[str, Writer] = {
    "stabilityai/sd-turbo": _pipeline(tiny.stable_diffusion),
    "stabilityai/sdxl-turbo": _pipeline(tiny.stable_diffusion_xl),
    "stabilityai/stable-diffusion-xl-base-1.0": _pipeline(_sdxl_base),
    "ByteDance/Hyper-SD": _file_of_weights(lambda: tiny.stable_diffusion_xl().unet),
    "ByteDance/SDXL-Lightning": _file_of_weights(lambda: tiny.stable_diffusion_xl().unet),
    "latent-consistency/lcm-sdxl": _unet_of_lcm_sdxl,
    "SimianLuo/LCM_Dreamshaper_v7": _pipeline(tiny.latent_consistency),
    "Efficient-Large-Model/Sana_Sprint_0.6B_1024px_diffusers": _pipeline(tiny.sana),
    "Efficient-Large-Model/Sana_Sprint_1.6B_1024px_diffusers": _pipeline(tiny.sana),
    "black-forest-labs/FLUX.1-schnell": _pipeline(tiny.flux),
    "black-forest-labs/FLUX.2-klein-4B": _pipeline(lambda: tiny.flux2_klein(FLUX2_TEXT_LAYERS)),
    "PixArt-alpha/PixArt-XL-2-512x512": _pixart,
    "PixArt-alpha/PixArt-Alpha-DMD-XL-2-512x512": _pixart_dmd,
    "stabilityai/stable-diffusion-3.5-large-turbo": _pipeline(tiny.stable_diffusion_3),
    "Tongyi-MAI/Z-Image-Turbo": _pipeline(tiny.z_image),
    "Qwen/Qwen-Image": _pipeline(tiny.qwen_image, base_shift=0.5, max_shift=0.9, shift_terminal=0.02),
    "lightx2v/Qwen-Image-Lightning": _qwen_image_lightning,
}

# Class -> what writes a checkpoint of it, whichever one the configuration names, and returns the arguments for it.
REWARDS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "hn.rewards.clip.ClipReward": tiny_rewards.clip,
    "hn.rewards.hpsv2.HPSv2Reward": tiny_rewards.hpsv2,
    "hn.rewards.hpsv3.HPSv3Reward": tiny_rewards.hpsv3,
    "hn.rewards.image_reward.ImageReward": tiny_rewards.image_reward,
    "hn.rewards.pickscore.PickScoreReward": tiny_rewards.pickscore,
    "hn.rewards.unified_reward.UnifiedReward": tiny_rewards.unified_reward,
    "hn.rewards.vqa_score.VqaScoreReward": tiny_rewards.vqa_score,
}
