import torch

from hn.generators.noise import BatchSlice
from hn.training.kept_scores import gather_scores, own_scores


def test_scores_of_several_processes_and_parts_are_sorted_and_given_back_to_any_number() -> None:
    numbers = torch.arange(24.0)
    cut = {
        rank: {
            part: {"clip": numbers[BatchSlice(part, 2, rank, 3).positions(4)]} for part in range(2)
        }
        for rank in range(3)
    }  # fmt: skip

    def all_gather(value: torch.Tensor) -> torch.Tensor:
        """Of three processes: what each would have passed at the same call."""
        if value.dtype == torch.int64:
            rows = [[n for part in range(2) for n in BatchSlice(part, 2, rank, 3).positions(4)] for rank in range(3)]
            return torch.tensor(rows)
        return torch.stack([torch.cat([cut[rank][part]["clip"] for part in range(2)]) for rank in range(3)])

    gathered = gather_scores(cut[1], BatchSlice(0, 2, 1, 3), all_gather)
    assert torch.equal(gathered["clip"], numbers)
    for rank in range(3):
        again = own_scores(gathered, BatchSlice(0, 2, rank, 3), torch.device("cpu"))
        assert all(torch.equal(again[part]["clip"], cut[rank][part]["clip"]) for part in range(2))
    alone = own_scores(gathered, BatchSlice(), torch.device("cpu"))
    assert torch.equal(alone[0]["clip"], numbers)


def test_nothing_is_kept_of_an_estimator_that_scores_each_update() -> None:
    assert gather_scores({}, BatchSlice(), lambda value: value) == {}
    assert own_scores({}, BatchSlice(), torch.device("cpu")) == {}
