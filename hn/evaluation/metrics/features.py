"""Networks for distances between images: DINOv2 and others of timm, FID's Inception, and LPIPS.

They are never trained, and compute in float32 whatever the trainer's precision.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn
from torchmetrics.image.fid import NoTrainInceptionV3
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

from hn.rewards.preprocess import ClipPreprocess
from hn.utils.files import expand_home
from hn.utils.hub import Repository, locate_folder

_TIMM_FILES = ("config.json", "model.safetensors")
_LPIPS_FILES = {
    "alex": "alexnet-owt-7be5be79.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
    "vgg": "vgg16-397923af.pth",
}


class TimmFeatures(nn.Module):
    """Pooled features of an image model of timm; by default of DINOv2 ViT-S/14.

    Images are resized and cropped as `ClipPreprocess` does, to the model's own size, mean and standard deviation.

    Args:
        pretrained: Hub id, or a folder with config.json and model.safetensors, as timm's `save_for_hf` writes it.
        revision: branch, tag or commit on the Hub.
        size: side in pixels at which the model looks; its own if not given (518 for DINOv2, published comparisons of
            which often take 224).

    Raises:
        FileNotFoundError: if there are no such weights; says how to get them.
        ValueError: if the model is not one of this version of timm, or takes no images of that size.
    """

    def __init__(
        self,
        pretrained: str = "timm/vit_small_patch14_dinov2.lvd142m",
        revision: str | None = None,
        size: int | None = None,
    ) -> None:
        super().__init__()
        folder = locate_folder(pretrained, _TIMM_FILES[0], revision, _TIMM_FILES)
        options = {} if size is None else {"img_size": size}
        try:
            self.model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0, **options)
        except (RuntimeError, TypeError, AssertionError) as error:
            raise ValueError(f"{pretrained} cannot be loaded with timm {timm.__version__}: {error}") from error
        found = resolve_model_data_config(self.model)
        self.preprocess = ClipPreprocess(size or found["input_size"][-1], found["mean"], found["std"])
        self.requires_grad_(False).eval()

    @classmethod
    def repositories(cls, arguments: Mapping[str, Any]) -> Iterator[Repository]:
        """What is taken from the Hugging Face Hub."""
        name = arguments.get("pretrained", "timm/vit_small_patch14_dinov2.lvd142m")
        if not expand_home(name).is_dir():
            yield Repository(name, arguments.get("revision"), files=_TIMM_FILES)

    def image_features(self, images: Tensor) -> Tensor:
        """Features [B, D], float32, of images [B, 3, H, W] in [0, 1]."""
        with torch.autocast(images.device.type, enabled=False):
            return self.model(self.preprocess(images.float()))


class InceptionFeatures(nn.Module):
    """The 2048 pooled features of FID's Inception-v3, as torchmetrics and torch-fidelity compute them.

    Images are rounded to 8 bits, as a PNG has them.

    Args:
        weights: file `pt_inception-2015-12-05-6726825d.pth` of torch-fidelity's releases; by default it is downloaded
            to the cache of torch.hub.

    Raises:
        ImportError: if torch-fidelity is not installed.
        FileNotFoundError: if the weights are not there and cannot be downloaded.
        ValueError: if the file holds something else.
    """

    def __init__(self, weights: str | None = None) -> None:
        super().__init__()
        require_torch_fidelity()
        if weights is not None and not expand_home(weights).is_file():
            raise FileNotFoundError(f"{weights}: there is no such file of Inception's weights.")
        path = None if weights is None else str(expand_home(weights))
        try:
            self.model = NoTrainInceptionV3("inception-v3-compat", ["2048"], path)
        except OSError as error:
            raise FileNotFoundError(
                f"The weights of FID's Inception cannot be downloaded ({error}). Get pt_inception-2015-12-05-6726825d"
                ".pth from https://github.com/toshas/torch-fidelity/releases and name the file as `weights`."
            ) from error
        except (RuntimeError, TypeError, KeyError, pickle.UnpicklingError) as error:
            raise ValueError(f"{weights} does not hold the weights of FID's Inception: {error}") from error
        self.requires_grad_(False).eval()

    @classmethod
    def repositories(cls, arguments: Mapping[str, Any]) -> Iterator[Repository]:
        """Nothing of the Hub; asked before anything is loaded, it says that a package is missing.

        Raises:
            ImportError: as `__init__`.
        """
        require_torch_fidelity()
        yield from ()

    def image_features(self, images: Tensor) -> Tensor:
        """Features [B, 2048], float32, of images [B, 3, H, W] in [0, 1]."""
        with torch.autocast(images.device.type, enabled=False):
            return self.model((images.float() * 255).round().to(torch.uint8))


class LpipsDistance(nn.Module):
    """LPIPS (arXiv 1801.03924) of two images, as torchmetrics computes it; between seeds it measures diversity.

    Args:
        network: "alex", "vgg" or "squeeze"; the first is what its authors recommend for comparisons.

    Raises:
        ValueError: for another network.
        FileNotFoundError: if torchvision's weights of the network are not there and cannot be downloaded.
    """

    def __init__(self, network: Literal["alex", "vgg", "squeeze"] = "alex") -> None:
        super().__init__()
        if network not in _LPIPS_FILES:
            raise ValueError(f"Unknown network {network!r}; choose one of {', '.join(_LPIPS_FILES)}.")
        try:
            self.network = LearnedPerceptualImagePatchSimilarity(network).net
        except OSError as error:
            file = _LPIPS_FILES[network]
            folder = Path(torch.hub.get_dir()) / "checkpoints"
            raise FileNotFoundError(
                f"The weights of LPIPS' network cannot be downloaded ({error}). Put "
                f"https://download.pytorch.org/models/{file} into {folder}."
            ) from error
        self.requires_grad_(False).eval()

    def image_distance(self, first: Tensor, second: Tensor) -> Tensor:
        """LPIPS [B], float32, of images [B, 3, H, W] in [0, 1] and as many others."""
        with torch.autocast(first.device.type, enabled=False):
            return self.network(first.float(), second.float(), normalize=True).flatten()


def require_torch_fidelity() -> None:
    """Raises:
    ImportError: if torch-fidelity, which has the architecture of FID's Inception, is not installed.
    """
    if find_spec("torch_fidelity") is None:
        raise ImportError("FID's Inception needs torch-fidelity: pip install 'hn[fid]', or pip install torch-fidelity.")
