"""Tensors of prompts in files, and generators that run on them: exact, trimmed, never of other text encoders."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from hn.cli.embed import embed_prompts
from hn.data.encodings.files import PromptFiles, default_folder, size_in_words, without_padding
from hn.generators import DiffusersGenerator
from tests.tiny_pipelines import CASES, NETWORKS

CPU = torch.device("cpu")
PROMPTS = ["a red cube", "two blue ball left of the green cube", "a ball"]


@pytest.fixture
def cache(tmp_path: Path) -> PromptFiles:
    return PromptFiles(tmp_path / "cache", {"class": "P", "dtype": "float32"})


@pytest.fixture
def embedded(tiny_pipeline_folder: Path, tmp_path: Path) -> Callable[..., DiffusersGenerator]:
    """The tiny generator with a cache that holds PROMPTS; with the options given."""

    def make(folder: Path = tiny_pipeline_folder, **options) -> DiffusersGenerator:
        options = {"cache": str(tmp_path / "cache"), "encode_batch_size": 1, **options}
        embed_prompts(DiffusersGenerator.build_on_meta(str(folder), **options), PROMPTS, CPU)
        return DiffusersGenerator(str(folder), **options)

    return make


def sample(seed: int, length: int) -> dict[str, Tensor]:
    """Conditioning of 8 tokens, of which `length` are filled: embeddings, mask and a number."""
    embeds = torch.randn(1, 8, 3, generator=torch.Generator().manual_seed(seed)).bfloat16()
    mask = (torch.arange(8) < length).long()[None]
    return {"embeds": embeds * mask[..., None], "mask": mask, "length": torch.tensor([length])}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype and torch.equal(one[name], other[name])


def test_what_is_written_is_read_bit_for_bit(cache: PromptFiles) -> None:
    samples = {f"prompt {length}": sample(length, length) for length in (0, 1, 5, 8)}
    first, second = dict(list(samples.items())[:3]), dict(list(samples.items())[3:])
    assert (cache.write(first).name, cache.write(second).name) == ("00000.safetensors", "00001.safetensors")
    for files in (cache, PromptFiles(cache.root, cache.fingerprint)):
        assert len(files) == 4
        assert files.missing(["prompt 8", "new", "prompt 1", "new"]) == ["new"]
        for prompt, expected in samples.items():
            assert_same(files.read(prompt), expected)
    kept = [len(tensor) for name, tensor in load_file(cache.folder / "00000.safetensors").items() if "embeds" in name]
    assert sorted(kept) == [0, 1, 5]
    with pytest.raises(KeyError):
        cache.read("new")


def test_zeros_between_filled_rows_are_kept() -> None:
    assert without_padding(torch.tensor([[1, 0, 2, 0, 0]])).tolist() == [1, 0, 2]


def test_another_identity_is_another_folder(cache: PromptFiles) -> None:
    cache.write({"a": sample(0, 3)})
    other = PromptFiles(cache.root, {**cache.fingerprint, "dtype": "bfloat16"})
    assert len(other) == 0
    assert other.others() == [f"{cache.folder} differs in dtype"] and cache.others() == []
    assert json.loads((cache.folder / "encoder.json").read_text()) == cache.fingerprint


def test_a_full_disk_is_one_error_and_leaves_nothing_half_written(cache: PromptFiles, small_files_only) -> None:
    cache.write({"a": sample(0, 3)})
    message = r"of 1 prompts cannot be written to .*00001.safetensors: .* make room, or choose"
    with pytest.raises(OSError, match=message), small_files_only():
        cache.write({"b": {"embeds": torch.ones(1, 500)}})
    assert sorted(path.name for path in cache.folder.iterdir()) == ["00000.safetensors", "encoder.json"]
    assert_same(PromptFiles(cache.root, cache.fingerprint).read("a"), sample(0, 3))


def test_too_little_room_is_said_before(cache: PromptFiles) -> None:
    cache.require_space(1000)
    with pytest.raises(OSError, match=r"About 1e\+09 GB are needed in .*, where .* are free"):
        cache.require_space(10**18)


def test_sizes_are_said_in_words() -> None:
    assert [size_in_words(n) for n in (0, 999, 1000, 4.37e6, 3.2e10)] == [
        "0 bytes", "999 bytes", "1 kB", "4.37 MB", "32 GB",
    ]  # fmt: skip


def test_the_default_folder_is_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HN_CONDITIONING", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "hn" / "conditioning"
    monkeypatch.setenv("HN_CONDITIONING", "~/elsewhere")
    assert default_folder() == Path.home() / "elsewhere"


@pytest.mark.parametrize("name", NETWORKS)
def test_every_family_runs_on_files_without_its_text_encoders(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    case.build().save_pretrained(tmp_path / "pipe")
    folder, size = str(tmp_path / "pipe"), {"height": case.size[0], "width": case.size[1]}
    options = {"family": case.family, "encode_batch_size": 1, **size}
    plain = DiffusersGenerator(folder, **options)
    options["cache"] = str(tmp_path / "cache")
    embed_prompts(DiffusersGenerator.build_on_meta(folder, **options), PROMPTS, CPU)
    generator = DiffusersGenerator(folder, **options)

    parts = plain.files.text_parts(plain.family)
    encoders = [part for part in parts if isinstance(getattr(plain.pipe, part), nn.Module)]
    assert encoders and len(parts) == 2 * len(encoders)
    assert all(getattr(generator.pipe, part) is None for part in parts)
    assert generator.components.keys() == plain.components.keys() - set(encoders)
    dropped = sum(p.numel() for part in encoders for p in plain.components[part].parameters())
    assert dropped > 0
    assert sum(p.numel() for p in generator.parameters()) == sum(p.numel() for p in plain.parameters()) - dropped

    assert_same(generator.encode(PROMPTS), plain.encode(PROMPTS))
    noise = plain.sample_noise(3)
    images = [
        each.generate(noise, each.encode(PROMPTS), 2, torch.Generator().manual_seed(7)) for each in (plain, generator)
    ]
    assert torch.equal(*images)


@pytest.mark.parametrize(("name", "tokens"), [("sana", None), ("pixart", 4), ("z_image", None), ("qwen_image", None)])
def test_padding_is_not_kept(name: str, tokens: int | None, tmp_path: Path) -> None:
    case = CASES[name]
    case.build().save_pretrained(tmp_path / "pipe")
    options = {"family": case.family, "height": case.size[0], "width": case.size[1], "cache": str(tmp_path / "cache")}
    meta_generator = DiffusersGenerator.build_on_meta(str(tmp_path / "pipe"), **options)
    embed_prompts(meta_generator, ["a red cube"], CPU)
    (file,) = meta_generator.conditioning.folder.glob("*.safetensors")
    (kept,) = [len(tensor) for key, tensor in load_file(file).items() if key.endswith("/prompt_embeds")]
    full = meta_generator.conditioning.read("a red cube")["prompt_embeds"].shape[1]
    assert kept < full
    assert tokens in (None, kept)  # "a red cube" and the end


def test_prompts_that_are_not_there_are_named(embedded: Callable[..., DiffusersGenerator]) -> None:
    generator = embedded()
    generator.check_prompts(PROMPTS)
    message = "'two cube' and 1 more prompts are not in .*, and the text encoders are not loaded.*`hn embed --config"
    for method in (generator.encode, generator.check_prompts):
        with pytest.raises(ValueError, match=message):
            method(["a ball", "two cube", "a cube", "two cube"])


def test_without_conditioning_the_text_encoders_are_loaded(
    make_generator: Callable[..., DiffusersGenerator], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="hn"):
        generator = make_generator(cache=str(tmp_path / "empty"))
    assert "No conditioning of these text encoders in" in caplog.text and "`hn embed" in caplog.text
    assert_same(generator.encode(PROMPTS), make_generator().encode(PROMPTS))


def test_conditioning_follows_the_generators_data_type(embedded: Callable[..., DiffusersGenerator]) -> None:
    generator = embedded().to(torch.float64)
    assert generator.encode(PROMPTS)["prompt_embeds"].dtype == torch.float64


def test_a_truncated_file_is_refused_and_written_anew(embedded: Callable[..., DiffusersGenerator]) -> None:
    generator = embedded()
    (file,) = generator.conditioning.folder.glob("*.safetensors")
    content = file.read_bytes()
    for length in (len(content) - 1, 20, 0):
        file.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"00000.safetensors is damaged, perhaps truncated.*`hn embed"):
            DiffusersGenerator(generator.name, cache=str(generator.conditioning.root), encode_batch_size=1)
        assert_same(embedded().encode(PROMPTS), generator.encode(PROMPTS))
        assert file.read_bytes() == content


def test_a_foreign_file_is_refused_and_replaced(embedded: Callable[..., DiffusersGenerator]) -> None:
    mine, other = embedded(), embedded(dtype="float64")
    (file,), (foreign,) = (each.conditioning.folder.glob("*.safetensors") for each in (mine, other))
    content = file.read_bytes()
    shutil.copyfile(foreign, file)
    with pytest.raises(ValueError, match="was not written by these text encoders"):
        DiffusersGenerator(mine.name, cache=str(mine.conditioning.root))
    embedded()
    assert file.read_bytes() == content


def test_other_text_encoders_are_not_given_the_old_conditioning(
    embedded: Callable[..., DiffusersGenerator], tiny_pipeline_folder: Path, tmp_path: Path, caplog
) -> None:
    old = embedded()
    moved = Path(shutil.copytree(tiny_pipeline_folder, tmp_path / "moved"))
    same = DiffusersGenerator(str(moved), cache=str(old.conditioning.root))
    assert same.conditioning.folder == old.conditioning.folder  # a copy elsewhere is the same
    assert "text_encoder" not in same.components

    file = moved / "text_encoder" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-2] ^= 1  # one bit of one weight
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING, logger="hn"):
        stale = DiffusersGenerator(str(moved), cache=str(old.conditioning.root))
    assert "text_encoder" in stale.components
    assert f"{old.conditioning.folder} differs in weights" in caplog.text
