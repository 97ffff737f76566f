"""LAION's aesthetic predictor: a linear head on image features of CLIP ViT-L/14, trained on human ratings."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPConfig, CLIPVisionModelWithProjection

from hn.rewards.base import PreprocessedReward
from hn.rewards.clip import image_normalisation
from hn.rewards.preprocess import ClipPreprocess
from hn.utils.dtype import full_precision, parse_dtype
from hn.utils.files import expand_home
from hn.utils.hub import Repository, explain_missing, locate, locate_file
from hn.utils.layers import checkpoint_layers
from hn.utils.private.transformers import without_other_weights
from hn.utils.weights import assign_state_dict, is_without_weights, load_transformers_model, read_state_dict

_OTHER_WEIGHTS = (r"^text_model\.", r"^text_projection\.", r"^logit_scale$", r"position_ids$")  # of a CLIPModel


class AestheticReward(PreprocessedReward):
    """The predicted human rating of the look of an image, about 1 to 10; it ignores the prompt.

    The published predictor is `sac+logos+ava1-l14-linearMSE` of
    https://github.com/christophschuhmann/improved-aesthetic-predictor, and the published loss `10 - score`. Only the
    image tower of CLIP is loaded. Features are normalised and the head is evaluated in float32 or float64.

    Args:
        head: the head's weights: a local file, or "owner/name/file" on the Hub.
        head_revision: branch, tag or commit of the head's repository on the Hub.
        pretrained: Hub id or local folder of the CLIPModel.
        revision: branch, tag or commit of it on the Hub.
        dtype: data type of the image tower's weights: "float32", "bfloat16", "float16" or "float64".
        gradient_checkpointing: recompute the tower's activations in the backward pass, to save memory.

    Raises:
        FileNotFoundError: if there are no such weights; says how to get them.
        ValueError: if an argument is unknown, or the weights are not those of a CLIPModel or of the head.
    """

    reads_prompts = False
    published_weight = 0.0

    def __init__(
        self,
        head: str = "camenduru/improved-aesthetic-predictor/sac+logos+ava1-l14-linearMSE.pth",
        head_revision: str | None = None,
        pretrained: str = "openai/clip-vit-large-patch14",
        revision: str | None = None,
        dtype: str = "float32",
        gradient_checkpointing: bool = False,
    ):
        super().__init__()
        torch_dtype = parse_dtype(dtype)
        head_file = None if is_without_weights() else _locate_head(head, head_revision)
        found = locate(pretrained, "config.json", revision)
        with explain_missing(pretrained, revision):
            whole = CLIPConfig.from_pretrained(found, revision=revision)
            image_tower = without_other_weights(CLIPVisionModelWithProjection, _OTHER_WEIGHTS)
            whole.vision_config.projection_dim = whole.projection_dim
            self.model = load_transformers_model(image_tower, found, revision, torch_dtype, whole.vision_config)
            mean, std = image_normalisation(found, revision)
        with torch.device("meta"):
            self.head = AestheticHead(whole.projection_dim)
        if head_file is not None:
            assign_state_dict(self.head, read_state_dict(head_file), head_file, "the aesthetic head")
        self.head.to(torch.promote_types(torch_dtype, torch.float32))
        self.preprocess = ClipPreprocess(whole.vision_config.image_size, mean, std)
        if gradient_checkpointing:
            checkpoint_layers(self.model.vision_model.encoder.layers)
        self.freeze()

    @classmethod
    def repositories(cls, arguments: Mapping[str, Any]) -> Iterator[Repository]:
        yield from super().repositories(arguments)
        repository, file = _split_head(arguments["head"])
        if repository is not None:
            yield Repository(repository, arguments["head_revision"], files=file)

    def towers(self) -> list[nn.Module]:
        return [self.model]

    def image_layers(self) -> list[nn.Module]:
        return list(self.model.vision_model.encoder.layers)

    def score_pixels(self, pixel_values: Tensor, prompts: Sequence[str]) -> Tensor:
        features = self.encode_pixels(pixel_values)
        with torch.autocast(features.device.type, enabled=False):
            return self.head(functional.normalize(full_precision(features), dim=-1))

    def image_features(self, images: Tensor) -> Tensor:
        """Features [B, D] of images [B, 3, H, W] in [0, 1]."""
        return self.encode_pixels(self.preprocess(full_precision(images)))

    def encode_pixels(self, pixel_values: Tensor) -> Tensor:
        """Features [B, D] of preprocessed images [B, 3, size, size]."""
        return self.model(pixel_values=pixel_values.to(self.model.dtype)).image_embeds


class AestheticHead(nn.Module):
    """Five linear layers without activations. The identities keep the published numbering, which had dropout there.

    Args:
        width: of the image features.
    """

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, 1024),
            nn.Identity(),
            nn.Linear(1024, 128),
            nn.Identity(),
            nn.Linear(128, 64),
            nn.Identity(),
            nn.Linear(64, 16),
            nn.Linear(16, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Normalised features [B, width] -> scores [B]."""
        return self.layers(features).squeeze(1)


def _locate_head(head: str, revision: str | None) -> Path:
    repository, name = _split_head(head)
    if repository is not None:
        return locate_file(repository, name, revision)
    file = expand_home(head)
    if file.is_file():
        return file
    raise FileNotFoundError(
        f"There is no file {file}. Give the head's file, or owner/name/file on the Hub; the published one is\n"
        "https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/main/sac%2Blogos%2Bava1-l14-linearMSE.pth"
    )


def _split_head(head: str) -> tuple[str | None, str]:
    """The Hub repository (None for a local file) and the name of the file."""
    repository, _, name = head.rpartition("/")
    is_on_hub = repository.count("/") == 1 and not expand_home(head).is_file() and not Path(repository).is_dir()
    return repository if is_on_hub else None, name
