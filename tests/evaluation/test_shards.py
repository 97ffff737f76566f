import pytest
import torch

from hn.evaluation.methods import MethodOutput
from hn.evaluation.record import MethodRecord, joined, joined_over_processes
from hn.evaluation.samples import Samples

NAMES = (
    "reward",
    "reward/clip",
    "held_out",
    "held_out/clip",
    "correct",
    "features",
    "features/dino",
    "diversity/lpips",
)


def scores_of(index: int, copy: int) -> dict[str, torch.Tensor]:
    """What an image scores, a function of its numbers."""
    rng = torch.Generator().manual_seed(100 * index + copy)
    values = {name: torch.randn(8 if name.startswith("features") else (), generator=rng) for name in NAMES}
    return values | {"correct": torch.tensor(float("nan") if index == 3 else float(copy > 0))}


def record_of(batches: list[list[int]], copies: int = 3) -> MethodRecord:
    """A record of these prompts, batch by batch."""
    record = MethodRecord("hypernetwork", 2)
    for batch in batches:
        index = [i for i in batch for _ in range(copies)]
        copy = [k for _ in batch for k in range(copies)]
        rows = [{"tag": f"tag {i % 2}"} for i in index]
        samples = Samples(["x"] * len(index), rows, index, copy, 0, torch.zeros(len(index), 1))
        images = torch.zeros(len(index), 3, 1, 1)
        kl = torch.tensor([0.1 * i + k for i, k in zip(index, copy, strict=True)])
        found = [scores_of(i, k) for i, k in zip(index, copy, strict=True)]
        scores = {name: torch.stack([score[name] for score in found]) for name in NAMES}
        record.add(samples, MethodOutput(images, kl, seconds=float(len(index))), scores)
    return record


@pytest.fixture
def reference() -> dict[str, torch.Tensor]:
    return {name: torch.randn(20, 8) for name in ("features", "features/dino")}


@pytest.mark.parametrize(
    "shards",
    [
        [[[0, 2], [4, 6]], [[1, 3], [5, 0]]],  # a DistributedSampler's, the first prompt given twice
        [[[0, 1]], [[2, 3]], [[4, 5], [6]]],  # whole batches
        [[[6, 5, 4]], [[3, 2, 1, 0]], []],  # one process without any
    ],
)
def test_shards_are_joined_to_what_one_process_measures(shards, reference):
    whole = record_of([[0, 1, 2], [3, 4, 5], [6]])
    found = joined([record_of(batches) for batches in shards])
    base = record_of([[*range(7)]])
    assert found.summary(base, reference) == whole.summary(base, reference)
    assert found.summary()["images"] == 21
    assert found.summary()["seconds_per_image"] == 1.0
    for name in ("index", "copy", *NAMES):
        torch.testing.assert_close(found.column(name), whole.column(name), rtol=0, atol=0, equal_nan=True)


def test_nothing_joined_is_nothing():
    assert len(joined([MethodRecord("base", 1), MethodRecord("base", 1)])) == 0


def test_alone_a_process_keeps_its_record():
    record = record_of([[1, 0]])
    assert joined_over_processes(record) is record
