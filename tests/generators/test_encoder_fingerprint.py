"""What makes conditioning another one, and what does not."""

import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from hn.generators import DiffusersGenerator
from hn.generators.assemble import Component
from hn.generators.families.flux2_klein import Flux2Klein
from hn.generators.families.sana import SanaSprint
from hn.generators.families.stable_diffusion import StableDiffusion
from tests.tiny_pipelines import CASES


def key(folder: Path, **options) -> str:
    return DiffusersGenerator.build_on_meta(str(folder), cache=str(folder / "cache"), **options).conditioning.key


@pytest.fixture(scope="module")
def sana_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sana")
    CASES["sana"].build().save_pretrained(folder)
    return folder


def test_options_of_the_encoding_count_and_no_others(sana_folder: Path) -> None:
    own = {"height": 32, "width": 32}
    plain = key(sana_folder, family=SanaSprint(), **own)
    assert plain == key(sana_folder, family=SanaSprint(guidance_scale=1.0), height=64, width=32, steps=2)
    changed = [
        key(sana_folder, family=SanaSprint(max_sequence_length=16), **own),
        key(sana_folder, family=SanaSprint(instruction=[]), **own),
        key(sana_folder, dtype="bfloat16", **own),
    ]
    assert len({plain, *changed}) == 4


def test_another_backbone_does_not_count(tiny_pipeline_folder: Path) -> None:
    components = {"unet": Component(str(tiny_pipeline_folder), subfolder="unet")}
    assert key(tiny_pipeline_folder) == key(tiny_pipeline_folder, components=components)


class OwnEncoding(StableDiffusion):
    """Encodes in a way of its own, and does not say by which options."""

    def __init__(self, scale: float = 1.0):
        super().__init__()
        self.scale = scale

    def encode(self, pipe, prompts, device):
        return {name: self.scale * tensor for name, tensor in super().encode(pipe, prompts, device).items()}


def test_a_family_with_its_own_encoding_counts_whole(tiny_pipeline_folder: Path) -> None:
    assert StableDiffusion(guidance_scale=0.5).encoding_settings() == {}
    assert OwnEncoding(2.0).encoding_settings() == {"guidance_scale": None, "one_step_timestep": None, "scale": 2.0}
    keys = {key(tiny_pipeline_folder, family=family) for family in (None, OwnEncoding(1.0), OwnEncoding(2.0))}
    assert len(keys) == 3


def test_every_family_names_options_that_it_has() -> None:
    for case in CASES.values():
        generator = DiffusersGenerator.from_pipeline(
            case.build(), height=case.size[0], width=case.size[1], family=case.family
        )
        assert generator.family.encoding_settings().keys() == set(generator.family.encoding_options)
    assert Flux2Klein().encoding_settings() == {"text_layers": (9, 18, 27), "max_sequence_length": 512}


def test_a_repository_is_known_by_its_commit(tiny_pipeline_folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--owner--name"
    (repository / "refs").mkdir(parents=True)
    weights = []
    for commit in ("0" * 40, "1" * 40):
        shutil.copytree(tiny_pipeline_folder, repository / "snapshots" / commit)
        (repository / "refs" / "main").write_text(commit)
        meta_generator = DiffusersGenerator.build_on_meta("owner/name", cache=str(tmp_path / "cache"))
        weights.append(meta_generator.conditioning.fingerprint["weights"])
    assert weights == [f"owner/name@{'0' * 40}", f"owner/name@{'1' * 40}"]
