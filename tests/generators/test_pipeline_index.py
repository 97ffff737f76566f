"""What `model_index.json` may name; nothing else is imported."""

import json
import sys
from pathlib import Path

import pytest

from hn.generators.pipeline_index import check_index

INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.1",
    "requires_safety_checker": False,
    "feature_extractor": [None, None],
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "image_encoder": ["transformers", "ClassWithAnotherNameNow"],
}


def test_classes_of_diffusers_and_transformers_are_taken() -> None:
    assert check_index(INDEX, "here") == INDEX
    assert check_index({**INDEX, "_class_name": "OfALaterVersion"}, "here")


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the working directory, which is on Python's path; its import fails the test."""
    (tmp_path / "evil_of_index.py").write_text("import pytest\npytest.fail('it was imported')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    return "evil_of_index"


@pytest.mark.parametrize("library", ["evil_of_index", "os", "hn", "diffusers.utils", "..evil", "FlaxDDIMScheduler", ""])
def test_another_library_is_refused_and_not_imported(evil: str, library: str) -> None:
    with pytest.raises(ValueError, match=f"here, model_index.json: 'unet' is of {library!r}, and to import that runs"):
        check_index({**INDEX, "unet": [library, "X"]}, "here")
    assert evil not in sys.modules


@pytest.mark.parametrize(
    "value",
    [
        ["diffusers", "DiffusionPipeline"],  # with an index of its own
        ["diffusers", "StableDiffusionPipeline"],
        ["diffusers", "utils"],
        ["transformers", "AutoModel"],
        ["transformers", "pipeline"],
        ["transformers", "Trainer"],
        ["transformers", "FlashPackAutoModel"],
        ["stable_diffusion", "StableDiffusionPipeline"],
        ["pipeline_utils", "DiffusionPipeline"],
    ],
)
def test_other_classes_of_these_libraries_are_refused(value: list[str]) -> None:
    with pytest.raises(ValueError, match=f"'unet' is {value[1]}, which is no network, scheduler, tokenizer or proc"):
        check_index({**INDEX, "unet": value}, "here")


@pytest.mark.parametrize("value", [["diffusers"], ["diffusers", None], ["a", "b", "c"], [1, 2], [["diffusers"], "X"]])
def test_a_part_of_another_form_is_refused(value: list) -> None:
    with pytest.raises(ValueError, match="'unet' has to be a library and the name of a class"):
        check_index({**INDEX, "unet": value}, "here")


@pytest.mark.parametrize("index", [[], {}, {"_class_name": ["evil", "X"]}, {"_class_name": "UNet2DConditionModel"}])
def test_what_is_no_index_is_refused(index: object) -> None:
    with pytest.raises(ValueError, match="here, model_index.json: '_class_name' has to be a pipeline of diffusers"):
        check_index(index, "here")
    with pytest.raises(ValueError, match="This version of diffusers .* has no FlashPackDiffusionPipeline"):
        check_index({**INDEX, "unet": ["diffusers", "FlashPackDiffusionPipeline"]}, "here")


def test_the_miniatures_index_is_one() -> None:
    file = Path("data/miniature/pipeline/model_index.json")
    assert check_index(json.loads(file.read_text()), "here")
