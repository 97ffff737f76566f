"""HPSv2: an open_clip ViT-H-14 fine-tuned on human preferences between images (arXiv 2306.09341)."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

from hn.rewards.open_clip import OpenClipReward
from hn.utils.hub import Repository, is_cached

_STEMS = {"v2.1": "HPS_v2.1_compressed", "v2.0": "HPS_v2_compressed"}


class HPSv2Reward(OpenClipReward):
    """cos(image features, text features) of HPSv2, about 0.2 to 0.35; the published loss is `1 - cos`.

    Images are cropped to squares as in the published training code. The published package pads them instead; square
    images get the same score.

    Args:
        version: "v2.1" or "v2.0".
        pretrained: Hub id of, or folder with, HPS_v2.1_compressed (HPS_v2_compressed) as .pt or .safetensors; or the
            file itself.
        revision: branch, tag or commit on the Hub.
        architecture: a name that `open_clip.list_models()` has, or the path of an open_clip JSON config; other than the
            published one for weights of another size.
        dtype: data type of the weights: "float32", "bfloat16", "float16" or "float64".
        prompt_cache_size: number of prompts whose features are cached.
        encode_batch_size: most prompts per call of the text tower.
        gradient_checkpointing: recompute the image tower's activations in the backward pass, to save memory.

    Raises:
        FileNotFoundError: if there are no such weights; says how to get them.
        ValueError: if an argument is unknown or out of range, or the weights are not those of the architecture.
    """

    published_weight = 5.0  # of v2.1

    def __init__(
        self,
        version: Literal["v2.1", "v2.0"] = "v2.1",
        pretrained: str = "xswu/HPSv2",
        revision: str | None = None,
        architecture: str = "ViT-H-14",
        dtype: str = "float32",
        prompt_cache_size: int = 16384,
        encode_batch_size: int = 64,
        gradient_checkpointing: bool = False,
    ):
        if version not in _STEMS:
            raise ValueError(f"Unknown version {version!r} of HPSv2; choose 'v2.1' or 'v2.0'.")
        super().__init__(
            architecture=architecture,
            pretrained=pretrained,
            revision=revision,
            dtype=dtype,
            scale="cosine",
            prompt_cache_size=prompt_cache_size,
            encode_batch_size=encode_batch_size,
            gradient_checkpointing=gradient_checkpointing,
            weight_files=_weight_files(version),
        )
        self.text_source["version"] = version

    @classmethod
    def text_fingerprint(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return super().text_fingerprint({**arguments, "weight_files": _weight_files(arguments["version"])})

    @classmethod
    def repositories(cls, arguments: Mapping[str, Any]) -> Iterator[Repository]:
        for whole in super().repositories(arguments):
            files = [replace(whole, files=name) for name in _weight_files(arguments["version"])]
            yield next(filter(is_cached, files), files[0])


def _weight_files(version: str) -> tuple[str, str]:
    return f"{_STEMS[version]}.pt", f"{_STEMS[version]}.safetensors"
