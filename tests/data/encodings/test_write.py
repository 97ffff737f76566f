"""Which prompts are encoded and written."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hn.data.encodings.files import PromptFiles
from hn.data.encodings.write import Encoder, write_missing


@pytest.fixture
def files(tmp_path: Path) -> PromptFiles:
    return PromptFiles(tmp_path / "cache", {"class": "P"})


def numbers(batch: list[str]) -> dict[str, torch.Tensor]:
    return {"x": torch.tensor([float(len(prompt)) for prompt in batch])[:, None].expand(-1, 16)}


def test_missing_prompts_are_encoded_once_in_the_order_of_their_first_appearance(files: PromptFiles) -> None:
    files.write({"there": {"x": torch.ones(1, 16)}})
    asked, encoded = [], []

    def load(missing: list[str]) -> Encoder:
        asked.extend(missing)
        return Encoder(lambda batch: (encoded.append(batch), numbers(batch))[1], 2)

    prompts = ["ccc", "there", "a", "ccc", "bb", "a"]
    done = write_missing(files, prompts, load, 1 << 10)
    assert asked == ["ccc", "a", "bb"]
    assert encoded == [["bb"], ["ccc", "a"], ["bb"]]  # the one of median length first, for the size
    assert (done.prompts, done.written) == (4, 3)
    done = write_missing(files, prompts, load, 1 << 10)
    assert (done.prompts, done.written, len(files)) == (4, 0, 4) and len(encoded) == 3


def test_prompts_that_can_be_read_once_only_are_all_written(files: PromptFiles) -> None:
    def prompts() -> Iterator[str]:
        yield from ("a", "b", "a", "c")

    done = write_missing(files, prompts(), lambda _: Encoder(numbers, 2), 1 << 10)
    assert (done.prompts, done.written, len(files)) == (3, 3, 3)
