import random
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hn.miniature.recipe.detector import DetectorStage
from hn.miniature.recipe.stage import Stage, fit


class Line(Stage):
    """Learns a linear map; breaks off before step `breaks_at`."""

    def __init__(self, steps: int = 9, breaks_at: int | None = None, seed: int = 1) -> None:
        super().__init__(steps, batch_size=4, learning_rate=0.1, seed=seed)
        self.net, self.breaks_at = nn.Linear(3, 1), breaks_at
        self.seen: list[tuple[int, float, float]] = []

    def loss(self, rng: torch.Generator, words: random.Random) -> dict[str, Tensor]:
        if self.global_step == self.breaks_at:
            raise KeyError("interrupted")
        batch = torch.randn(self.batch_size, 3, generator=rng)
        self.seen.append((self.global_step, batch[0, 0].item(), words.random()))
        return {"loss": (self.net(batch)[:, 0] - batch.sum(1)).square().mean()}


def weights(stage: Stage) -> Tensor:
    return torch.cat([value.flatten() for value in stage.state_dict().values()])


def test_seed_decides_weights_and_every_batch() -> None:
    first, second, other = Line(), Line(), Line(seed=2)
    assert torch.equal(weights(first), weights(second)) and not torch.equal(weights(first), weights(other))
    draws = [
        (torch.rand(1, generator=rng).item(), words.random()) for rng, words in (s.rngs() for s in (first, second))
    ]
    assert draws[0] == draws[1]


def test_interrupted_training_ends_at_the_same_weights(tmp_path: Path) -> None:
    whole = fit(Line(), "line", tmp_path / "whole")
    broken = Line(breaks_at=5)
    with pytest.raises(KeyError):
        fit(broken, "line", tmp_path / "broken", checkpoint_every=2)
    resumed = fit(Line(), "line", tmp_path / "broken", checkpoint_every=2)
    assert [step for step, *_ in broken.seen] == [0, 1, 2, 3, 4]
    assert resumed.seen == whole.seen[4:]  # from the last checkpoint, two steps at a time
    assert torch.equal(weights(resumed), weights(whole))
    assert not torch.equal(weights(whole), weights(Line()))


def test_a_detector_resumes_bit_for_bit(tmp_path: Path) -> None:
    class Breaks(DetectorStage):
        def loss(self, rng: torch.Generator, words: random.Random) -> dict[str, Tensor]:
            if self.global_step == 3:
                raise KeyError("interrupted")
            return super().loss(rng, words)

    options = {"steps": 5, "batch_size": 4}
    whole = fit(DetectorStage(**options), "detector", tmp_path / "whole")
    with pytest.raises(KeyError):
        fit(Breaks(**options), "detector", tmp_path / "broken", checkpoint_every=1)
    resumed = fit(DetectorStage(**options), "detector", tmp_path / "broken", checkpoint_every=1)
    assert torch.equal(weights(resumed), weights(whole))


def test_finished_training_is_loaded_and_not_repeated(tmp_path: Path) -> None:
    first = fit(Line(), "line", tmp_path)
    again = fit(Line(), "line", tmp_path)
    assert again.seen == []
    assert torch.equal(weights(again), weights(first))
    assert not again.training


def test_learning_rate_warms_up_and_ends_at_zero() -> None:
    stage = Line(steps=100)
    configured = stage.configure_optimizers()
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(101):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[:3] == pytest.approx([0.1 / 3, 0.2 / 3, 0.1])
    assert max(rates) == pytest.approx(0.1)
    assert rates[-1] == pytest.approx(0, abs=1e-9) and rates[51] == pytest.approx(0.05, rel=0.05)


def test_the_bar_counts_steps_from_where_the_stage_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(KeyError):
        fit(Line(steps=40, breaks_at=25), "line", tmp_path, checkpoint_every=20)
    capsys.readouterr()
    fit(Line(steps=40), "line", tmp_path)
    assert "40/40" in capsys.readouterr().out
