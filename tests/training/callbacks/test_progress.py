import re

import pytest

from hn.training.callbacks.evaluation import Evaluation
from hn.training.callbacks.progress import StepProgressBar


@pytest.fixture
def run(make_module, make_data, make_trainer, capsys):
    """Trains and tests with the bar, and returns what it wrote."""

    def fit(bar, **options):
        options = {"max_steps": 6, "val_check_interval": 3, "enable_progress_bar": True, **options}
        module, trainer = make_module(images_per_prompt=1), make_trainer(callbacks=[Evaluation(), bar], **options)
        trainer.fit(module, datamodule=make_data())
        trainer.test(module, datamodule=make_data(), verbose=False)
        written = capsys.readouterr()
        assert "step" not in written.out
        return written.err

    return fit


def test_a_log_file_gets_a_line_now_and_then_and_one_per_validation(run):
    lines = [line for line in run(StepProgressBar(line_every=2)).splitlines() if line.startswith("step")]
    number = r"-?\d[\d.e+-]*"
    training = rf"step \d/6: reward {number}, regulariser {number}, images/s \d+"
    scores = [rf"{name} {number} \(base {number}\)" for name in ("reward", "held_out_reward")]
    validation = rf"step \d, validation: {', '.join(scores)}, kl_nats {number}"
    assert [line[:6] for line in lines] == ["step 2", "step 3", "step 4", "step 6", "step 6"]
    for line, pattern in zip(lines, [training, validation, training, training, validation], strict=True):
        assert re.fullmatch(pattern, line), line


def test_a_terminal_gets_one_bar_over_all_updates(run, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    written = run(StepProgressBar(refresh_every=2))
    assert "training: 100%" in written
    assert re.search(r"6/6 .*reward .*, regulariser .*, images/s \d+", written)
    assert "validation:" in written
    assert re.search(r"test: +\d+%\|", written)  # cleared at its end, so when it is drawn is up to the clock


def test_updates_are_counted_where_gradients_are_accumulated(run):
    written = run(StepProgressBar(line_every=1), accumulate_grad_batches=3, max_steps=2)
    assert re.findall(r"step (\d)/2:", written) == ["1", "2"]


@pytest.mark.slow
def test_epochs_give_the_number_of_updates_too(run):
    assert "step 6/6:" in run(StepProgressBar(line_every=2), max_steps=-1, max_epochs=2)


@pytest.mark.parametrize("options", [{"refresh_every": 0}, {"line_every": 0}])
def test_numbers_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="must be at least 1"):
        StepProgressBar(**options)
