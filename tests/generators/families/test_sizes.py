"""Sizes that generators were trained for, and what is said of others."""

import inspect
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
from diffusers import SanaSprintPipeline, StableDiffusionPipeline

from hn.generators import DiffusersGenerator
from hn.generators.families.base import Family, describe_untrained_size
from hn.generators.families.flux import Flux
from hn.generators.families.pixart import PixArtAlpha
from hn.generators.families.qwen_image import QwenImage
from hn.generators.families.sana import SanaSprint


def full_size(sample_size: int, factor: int, patch: int = 1) -> SimpleNamespace:
    """What families read of a pipeline's sizes, with the numbers of a checkpoint."""
    transformer = SimpleNamespace(config=SimpleNamespace(sample_size=sample_size, in_channels=4, patch_size=patch))
    return SimpleNamespace(transformer=transformer, vae_scale_factor=factor, default_sample_size=sample_size)


CASES = {
    "sana": (SanaSprint(), full_size(32, 32), (1024, 1024), (832, 1216)),
    "pixart_512": (PixArtAlpha(), full_size(64, 8, 2), (512, 512), (416, 608)),
    "pixart_1024": (PixArtAlpha(), full_size(128, 8, 2), (1024, 1024), (832, 1216)),
    "pixart_256": (PixArtAlpha(), full_size(32, 8, 2), (256, 256), (208, 304)),
    "flux": (Flux(), full_size(128, 8), (1024, 1024), (512, 512)),
    "qwen_image": (QwenImage(), full_size(128, 8), (1024, 1024), (928, 1664)),
}


@pytest.mark.parametrize(("family", "pipe", "default", "another"), CASES.values(), ids=CASES)
def test_trained_sizes_can_be_generated(
    family: Family, pipe: SimpleNamespace, default: tuple[int, int], another: tuple[int, int]
) -> None:
    sizes = family.trained_sizes(pipe)
    assert another in sizes and family.image_size(pipe) == default
    assert describe_untrained_size(*default, sizes) is None
    for height, width in sizes:
        family.noise_shape(pipe, height, width)  # raises if the model cannot do it
        assert describe_untrained_size(height, width, sizes) is None


def test_sanas_default_size_is_its_pipelines() -> None:
    defaults = inspect.signature(SanaSprintPipeline.__call__).parameters
    assert SanaSprint().image_size(full_size(32, 32)) == (defaults["height"].default, defaults["width"].default)


def test_a_model_of_unknown_sizes_has_its_default_alone() -> None:
    assert SanaSprint().trained_sizes(full_size(8, 32)) == [(256, 256)]
    assert PixArtAlpha().trained_sizes(full_size(16, 8, 2)) == [(128, 128)]


def test_sizes_far_from_the_trained_ones_are_described_with_the_nearest() -> None:
    sizes = [(1024, 1024), (832, 1216), (1216, 832)]
    assert describe_untrained_size(768, 1024, sizes) is None
    message = describe_untrained_size(400, 640, sizes)
    assert "400 x 640 pixels are far" in message and message.endswith("nearest aspect ratio is 832 x 1216.")
    assert "is 1216 x 832." in describe_untrained_size(2048, 1536, sizes)


def test_the_log_warns_once_of_a_size_far_from_the_trained_ones(
    stock_pipeline: StableDiffusionPipeline, tiny_pipeline_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="hn"):
        DiffusersGenerator.from_pipeline(stock_pipeline, height=32, width=48)
        assert not caplog.records
        generator = DiffusersGenerator.from_pipeline(stock_pipeline, height=64, width=64)
        generator.with_backbone(generator.backbone)
    (record,) = caplog.records
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="hn"):
        DiffusersGenerator.build_on_meta(str(tiny_pipeline_folder), height=64, width=64)
        assert not caplog.records
        DiffusersGenerator(str(tiny_pipeline_folder), height=64, width=64)
    assert [other.getMessage() for other in caplog.records] == [record.getMessage()]
    assert "Images of 64 x 64 pixels" in record.getMessage() and "32 x 32" in record.getMessage()
