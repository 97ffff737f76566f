"""The generators of experiments/shared/generators, on tiny random weights in the place of the Hub's."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from jsonargparse import ArgumentParser

from hn.generators import DiffusersGenerator, Generator
from hn.hypernets import LoraHypernet
from hn.utils.config import read_config
from tests.tiny_hub import HEIGHT, WIDTH, substitute

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "shared" / "generators"
FRAGMENTS = sorted(FOLDER.glob("*.yaml"))
PROMPTS = ["a red cube", "two blue ball left of the green cube"]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="module", params=FRAGMENTS, ids=lambda file: file.stem)
def fragment(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture(scope="module")
def options(fragment: Path) -> dict[str, Any]:
    return read_config(fragment)["model"]["generator"]["init_args"]


@pytest.fixture(scope="module")
def generator(fragment: Path, hub: Path) -> DiffusersGenerator:
    return build(read_config(fragment), hub)


def build(config: dict[str, Any], hub: Path) -> DiffusersGenerator:
    """What the command line makes of a configuration's generator."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Generator, "generator")
    parsed = parser.parse_object({"generator": substitute(config, hub)["model"]["generator"]})
    return parser.instantiate(parsed).generator


def test_every_fragment_says_what_it_is_and_what_it_costs(fragment: Path, options: dict[str, Any]) -> None:
    assert set(read_config(fragment)) == {"model"} and set(read_config(fragment)["model"]) == {"generator"}
    assert {"pretrained", "variant", "dtype", "height", "width"} <= set(options)
    comment = [line for line in fragment.read_text().splitlines() if line.startswith("#")]
    assert any("Licence of the weights" in line for line in comment)
    downloads = " ".join(line for line in comment if "hf download" in line)
    repositories = [node["pretrained"] for node in (options.get("components") or {}).values()]
    repositories += [lora["pretrained"] for lora in options.get("fuse_loras") or []]
    # Of a generator that is put together, the pipeline's own weights are named where it is.
    assert all(name in downloads for name in repositories or [options["pretrained"]])
    assert f"`{fragment.stem}`" in (ROOT / "docs" / "families.md").read_text()


def test_the_generator_is_as_written(generator: DiffusersGenerator, options: dict[str, Any]) -> None:
    assert generator.steps == options.get("steps", 1)
    assert generator.dtype == getattr(torch, options["dtype"])
    if "scheduler" in options:
        assert type(generator.pipe.scheduler).__name__ == options["scheduler"].removeprefix("diffusers.")
    for name, value in options.get("scheduler_options", {}).items():
        assert generator.pipe.scheduler.config[name] == value
    assert not generator.pipe.scheduler.config.get("clip_sample", False)  # latents go beyond -1 and 1


@pytest.mark.parametrize(
    "name", ["hyper_sd", "lcm_sdxl", "pixart_dmd", "qwen_image_lightning", "sdxl_lightning", "sdxl_lightning_1step"]
)
def test_what_is_put_in_replaces_the_pipelines_own(hub: Path, name: str) -> None:
    config = read_config(FOLDER / f"{name}.yaml")
    options, generator = config["model"]["generator"]["init_args"], build(config, hub)
    pipe = DiffusionPipeline.from_pretrained(generator.name, variant=options["variant"], dtype=generator.dtype)
    own = getattr(pipe, generator.family.backbone_name).state_dict()
    weights = generator.backbone.state_dict()
    assert any(not torch.equal(tensor, own[name]) for name, tensor in weights.items() if name in own)


def test_it_generates_and_f_starts_at_zero(generator: DiffusersGenerator) -> None:
    noise, conditioning = generator.sample_noise(2, torch.Generator().manual_seed(0)), generator.encode(PROMPTS)
    hypernet = LoraHypernet(rank=2).build(generator)
    with torch.no_grad():
        images = generator.generate(noise, conditioning, rng=torch.Generator().manual_seed(1))
        f = hypernet(noise, conditioning)
    assert images.shape == (2, 3, HEIGHT, WIDTH)
    assert images.isfinite().all() and images.float().std() > 0.01
    assert f.shape == noise.shape and (f == 0).all()
