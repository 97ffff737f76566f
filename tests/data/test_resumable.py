import hashlib
import warnings
from collections import Counter
from pathlib import Path

import pytest

from hn.data import PromptDataset, collate_prompts
from hn.data.resumable import EpochShuffle, ResumableLoader

PROMPTS = Path(__file__).parents[2] / "data" / "prompts" / "miniature"


@pytest.fixture(scope="module")
def mix(tmp_path_factory) -> PromptDataset:
    """Rows 0 to 9 once, 10 to 16 two and a half times: 10 + 14 + 4 an epoch."""
    folder = tmp_path_factory.mktemp("mix")
    paths = {}
    for name, numbers, weight in (("a", range(10), 1.0), ("b", range(10, 17), 2.5)):
        path = folder / f"{name}.txt"
        path.write_text("\n".join(f"prompt {number}" for number in numbers))
        paths[str(path)] = weight
    return PromptDataset(paths, purpose="train")


def epoch(dataset: PromptDataset, number: int, **options) -> list[int]:
    sampler = EpochShuffle(dataset, **{"batch_size": 2, **options})
    sampler.set_epoch(number)
    order = list(sampler)
    assert len(order) == len(sampler) - sampler.position() * sampler.batch_size
    return order


@pytest.mark.parametrize(
    ("options", "number", "n", "expected"),
    [
        ({}, 0, 720, "d5ef24d56f9852ed9ee845fa37e313efba6b0ded5ec508da5d4a6ebb92041c6c"),
        ({}, 1, 720, "cd88dec4e05adfca8eceb54bf310fbb6cb595575fbebcebd61d910e9a281a429"),
        ({}, 2, 720, "32271b3f71fad950549aafada03ff17ef301ff9856cbe9e25b445e126a9ce0f2"),
        (
            {"seed": 3, "num_replicas": 2, "rank": 1},
            *(5, 360, "58b30708a1daad8aafff108fdfd39c874c613a54806b50d723c1fdc3350ec250"),
        ),
    ],
)
def test_the_miniature_keeps_its_order(options, number, n, expected):
    """The order that the committed results were trained in, recorded before there were weights."""
    order = epoch(PromptDataset(PROMPTS / "train.jsonl", purpose="train", deduplicate=None), number, **options)
    assert len(order) == n
    assert hashlib.sha256(str(order).encode()).hexdigest() == expected


def test_an_epoch_of_a_mix_holds_what_its_weights_say(mix):
    for number in range(4):
        counts = Counter(epoch(mix, number))
        assert [counts[row] for row in range(10)] == [1] * 10
        assert sorted(counts[row] for row in range(10, 17)) == [2, 2, 2, 3, 3, 3, 3]
    assert epoch(mix, 0) != epoch(mix, 1)
    assert epoch(mix, 0) != epoch(mix, 0, seed=1)


@pytest.mark.parametrize("done", range(14))
def test_a_mix_goes_on_after_any_number_of_batches(mix, done):
    for number in (0, 3):
        assert epoch(mix, number, position=lambda: done) == epoch(mix, number)[done * 2 :]


def test_ranks_share_a_mix_without_overlap(mix):
    ranks = [epoch(mix, 1, num_replicas=3, rank=rank) for rank in range(3)]
    assert [len(rank) for rank in ranks] == [9, 9, 9]
    one = epoch(mix, 1)
    assert [one[i] for i in range(27)] == [ranks[i % 3][i // 3] for i in range(27)]
    after = epoch(mix, 1, num_replicas=3, rank=2, position=lambda: 2)
    assert after == ranks[2][4:]


def test_weights_are_part_of_what_must_be_the_same(mix):
    state = EpochShuffle(mix, 2).describe()
    assert state["weights"] == [[0, 10, 1.0], [10, 17, 2.5]]
    plain = PromptDataset([source.name for source in mix.sources], purpose="train")
    assert EpochShuffle(plain, 2).describe() == {key: state[key] for key in state if key != "weights"}


def test_a_batch_must_fill(mix):
    EpochShuffle(mix, 28)
    with pytest.raises(ValueError, match=r"28 training prompts do not fill one batch of 29 on 1 device"):
        EpochShuffle(mix, 29)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_batches_are_announced_while_the_one_before_is_worked_on(mix, num_workers):
    sampler = EpochShuffle(mix, 4, position=lambda: 2)
    options = {"batch_size": 4, "sampler": sampler, "drop_last": True, "collate_fn": collate_prompts}
    plain = ResumableLoader(mix, num_workers=num_workers, **options)
    loader = ResumableLoader(mix, num_workers=num_workers, **options)
    events = []
    loader.prefetch_hook = lambda batch: events.append(("next", batch["prompt"]))
    for batch in loader:
        events.append(("now", batch["prompt"]))
    expected = [batch["prompt"] for batch in plain]
    assert len(expected) == 5
    ahead = [("next", prompts) for prompts in expected[1:]]
    now = [("now", prompts) for prompts in expected]
    assert events == [event for pair in zip(ahead, now, strict=False) for event in pair] + now[-1:]


@pytest.mark.parametrize(("batch_size", "ranks", "is_same"), [(4, 1, True), (2, 2, True), (1, 4, True), (4, 2, False)])
def test_the_order_goes_on_where_all_ranks_together_take_as_many(mix, batch_size, ranks, is_same):
    state = ResumableLoader(mix, sampler=EpochShuffle(mix, 2, num_replicas=2)).state_dict()
    loader = ResumableLoader(mix, sampler=EpochShuffle(mix, batch_size, num_replicas=ranks))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loader.load_state_dict(state)
    assert [str(one.message) for one in caught if "other batch_size" in str(one.message)] == (
        [] if is_same else [str(caught[0].message)]
    )


@pytest.mark.parametrize("position", [0, 1, 5, 7])
def test_updates_can_share_their_batches(mix, position):
    plain = epoch(mix, 3)
    shared = epoch(mix, 3, updates_per_batch=3, batches_per_update=2, position=lambda: position)
    # 28 prompts: 7 updates of two batches of two, each three times.
    updates = [plain[start : start + 4] for start in range(0, 28, 4)]
    assert shared == [row for update in updates for row in update * 3][position * 2 :]


def test_an_update_whose_batches_an_epoch_does_not_fill_is_left_out_if_it_is_shared(mix):
    assert epoch(mix, 0, batch_size=5, updates_per_batch=2) == [
        row for start in range(0, 25, 5) for row in epoch(mix, 0)[start : start + 5] * 2
    ]
    with pytest.raises(ValueError, match="do not fill the 15 batches of an update, each of 2 on 1"):
        EpochShuffle(mix, 2, updates_per_batch=2, batches_per_update=15)
