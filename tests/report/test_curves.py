"""Curves of runs from TensorBoard files."""

from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from hn.report.curves import EVALUATION_EVENTS, plot_curves, read_scalars


def write_run(folder, values, base=None):
    with SummaryWriter(folder) as writer:
        for step, value in values.items():
            writer.add_scalar("val/reward", value, step)
            if base is not None:
                writer.add_scalar("val/base_reward", base, step)


def test_scalars_of_a_resumed_run_are_joined_in_order_of_steps(tmp_path):
    write_run(tmp_path / "first", {10: 0.5, 20: 0.25})
    write_run(tmp_path / "second", {30: 1.0, 20: 0.75})
    run = tmp_path / "run"
    run.mkdir()
    for number, part in enumerate(("first", "second")):
        file = next((tmp_path / part).iterdir())
        file.rename(run / f"events.out.tfevents.{number}.{part}")
    assert read_scalars(run) == {"val/reward": ([10, 20, 30], [0.5, 0.75, 1.0])}


def test_events_of_an_evaluation_are_no_part_of_the_curves(tmp_path):
    write_run(tmp_path, {10: 0.5, 20: 0.25})
    with SummaryWriter(tmp_path, filename_suffix=EVALUATION_EVENTS) as writer:
        writer.add_scalar("val/reward", 0.75, 0)
    assert read_scalars(tmp_path) == {"val/reward": ([10, 20], [0.5, 0.25])}


def test_runs_that_were_validated_on_other_prompts_have_no_common_base(tmp_path, monkeypatch):
    lines, notes = [], []
    monkeypatch.setattr("matplotlib.axes.Axes.axhline", lambda self, y, **_: lines.append(y))
    monkeypatch.setattr("matplotlib.figure.Figure.supxlabel", lambda self, text, **_: notes.append(text))
    for name, base in (("a", 0.125), ("b", 0.125), ("c", 0.25)):
        write_run(tmp_path / name, {0: 0.5}, base)
    plot_curves({name: tmp_path / name for name in "ab"}, tmp_path / "alike.png", ["val/reward"])
    assert (lines, notes) == ([0.125], [])
    plot_curves({name: tmp_path / name for name in "ac"}, tmp_path / "unlike.png", ["val/reward"])
    assert lines == [0.125] and "validated on different prompts" in notes[0]


def test_plot_has_a_panel_for_each_scalar_that_a_run_has(tmp_path):
    write_run(tmp_path / "a", {0: 0.1, 10: 0.2}, base=0.1)
    write_run(tmp_path / "b", {0: 0.1, 10: 0.4})
    one = plot_curves({"a": tmp_path / "a", "b": tmp_path / "b"}, tmp_path / "one.png", ["val/reward", "val/none"])
    two = plot_curves({"a": tmp_path / "a"}, tmp_path / "two.png", ["val/reward", "val/base_reward"])
    assert Image.open(two).width == 2 * Image.open(one).width


def test_the_last_panel_sets_one_scalar_against_another(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("matplotlib.axes.Axes.plot", lambda self, *points, **_: drawn.append(points))
    with SummaryWriter(tmp_path) as writer:
        for step, (reward, cmmd) in enumerate([(0.5, 0.125), (0.75, 0.25), (1.0, None)]):
            writer.add_scalar("val/reward", reward, step)
            if cmmd is not None:
                writer.add_scalar("val/cmmd", cmmd, step)
        writer.add_scalar("val/base_reward", 0.25, 0)
        writer.add_scalar("val/base_cmmd", 0.0, 0)
    plot_curves({"run": tmp_path}, tmp_path / "curves.png", ["val/reward"])
    assert drawn == [([0, 1, 2], [0.5, 0.75, 1.0]), ([0.5, 0.75], [0.125, 0.25]), (0.25, 0.0)]


def test_no_plot_without_scalars(tmp_path):
    assert plot_curves({"empty": tmp_path}, tmp_path / "none.png") is None
    assert not (tmp_path / "none.png").exists()


def test_many_panels_take_two_rows(tmp_path):
    names = [f"val/{letter}" for letter in "abcdefg"]
    with SummaryWriter(tmp_path / "run") as writer:
        for name in names:
            writer.add_scalar(name, 0.5, 1)
    sizes = {
        count: Image.open(plot_curves({"a": tmp_path / "run"}, tmp_path / f"{count}.png", names[:count])).size
        for count in (1, 5, 7)
    }
    width, height = sizes[1]
    assert sizes[5] == (5 * width, height) and sizes[7] == (4 * width, 2 * height)
