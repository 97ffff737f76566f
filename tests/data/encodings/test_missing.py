"""Which prompts files lack, and having them written, with few of the prompts in memory."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from hn.cli.embed import ExperimentPrompts, experiment_prompts
from hn.data.encodings.files import PromptFiles
from hn.data.encodings.missing import MissingPrompts
from hn.data.encodings.write import Encoder, write_missing

SUITE = {"class_path": "hn.training.callbacks.suite.PromptSuite"}


@pytest.fixture
def files(tmp_path: Path) -> PromptFiles:
    return PromptFiles(tmp_path / "cache", {"class": "P"})


@pytest.fixture
def mapped(large_prompts: Path, tmp_path: Path) -> Callable[[], ExperimentPrompts]:
    """The prompts of a training on a large, memory-mapped set, with a suite of which two prompts are trained on."""
    suite = tmp_path / "suite.txt"
    suite.write_text("".join(f"Prompt {number} {'long' * 550}.\n" for number in (7, 1_999, 2_000)))
    options = {"train": str(large_prompts), "memory_map": True, "prompts_folder": str(tmp_path / "store")}
    data = {"class_path": "hn.data.module.PromptDataModule", "init_args": options}
    callbacks = {"suite": {**SUITE, "init_args": {"name": "s", "prompts": str(suite)}}}
    return lambda: experiment_prompts(("fit",), True, data, callbacks)


@pytest.mark.parametrize("seed", range(4))
def test_each_missing_prompt_comes_once_in_the_order_of_its_first_appearance(files: PromptFiles, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    asked = [f"prompt {10**number}" for number in torch.randint(0, 9, (30,), generator=rng).tolist()]
    files.write({f"prompt {10**number}": {"x": torch.ones(1)} for number in (2, 3, 5, 20)})
    missing, expected = MissingPrompts(files, asked), files.missing(asked)
    assert 0 < len(expected) < missing.distinct == len(set(asked))
    for _ in range(2):
        assert list(missing) == expected and len(missing) == len(expected)
    assert missing.of_median_length() == sorted(expected, key=len)[len(expected) // 2]


def test_nothing_is_missing_where_all_is_there(files: PromptFiles) -> None:
    files.write({"a": {"x": torch.ones(1)}})
    missing = MissingPrompts(files, ["a", "a"])
    assert not missing and list(missing) == [] and missing.distinct == 1


def test_prompts_that_come_once_only_are_all_written(files: PromptFiles) -> None:
    def prompts() -> Iterator[str]:
        yield from ("a", "b", "a", "c")

    done = write_missing(files, prompts(), lambda _: Encoder(numbers, 2), 1 << 10)
    assert (done.prompts, done.written, len(files)) == (3, 3, 3)


def test_a_large_set_is_not_in_memory(mapped, peak_of, files: PromptFiles, large_prompts: Path) -> None:
    size = large_prompts.stat().st_size
    assert peak_of(lambda: assert_complete(mapped())) < size / 5
    prompts, done = mapped(), []
    for _ in range(2):  # the second time nothing has to be encoded
        peak = peak_of(lambda: done.append(write_missing(files, prompts, lambda _: Encoder(numbers, 64), 1 << 14)))
        assert peak < size / 4
    assert [(each.prompts, each.written) for each in done] == [(2_001, 2_001), (2_001, 0)]


def assert_complete(prompts: ExperimentPrompts) -> None:
    """4 thousand prompts of the set and one of the suite, as often as they are asked for."""
    for _ in range(2):
        assert sum(1 for _ in prompts) == 4_001
    assert prompts.others == [f"Prompt 2000 {'long' * 550}."]


def numbers(batch: list[str]) -> dict[str, torch.Tensor]:
    return {"x": torch.tensor([float(len(prompt)) for prompt in batch])[:, None].expand(-1, 16)}
