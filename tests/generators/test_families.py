import pytest

from hn.generators.families import DEFAULT_FAMILIES, resolve_family
from hn.generators.families.stable_diffusion import StableDiffusion


@pytest.mark.parametrize("pipeline_class", DEFAULT_FAMILIES)
def test_every_default_family_exists_and_runs_its_pipeline(pipeline_class: str) -> None:
    assert resolve_family(None, pipeline_class).pipeline_class.__name__ == pipeline_class


def test_a_family_can_be_an_instance_or_a_class_path() -> None:
    family = StableDiffusion(guidance_scale=1.0)
    assert resolve_family(family, "Whatever") is family
    path = "hn.generators.families.stable_diffusion.StableDiffusion"
    assert isinstance(resolve_family(path, "Whatever"), StableDiffusion)


def test_an_unknown_pipeline_is_refused_with_advice() -> None:
    with pytest.raises(ValueError, match=r"No family is known for WuerstchenPipeline; known are .*Set `family`"):
        resolve_family(None, "WuerstchenPipeline")
