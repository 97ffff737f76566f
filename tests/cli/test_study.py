"""Studies, from the file and through the command line on tiny checkpoints."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from hn.cli import main
from hn.cli.study.definition import read_study
from hn.cli.study.report import Point, draw_study, means_over_seeds, study_table
from hn.cli.study.run import plan_study
from hn.cli.study.seeds import mean_and_interval
from hn.training.module import NoiseHypernetModule

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "experiments" / "studies").glob("*.yaml"))


@pytest.fixture
def write(experiment):
    """Writes a study of the tiny experiment and returns its path."""

    def make(name: str = "tried", **content) -> Path:
        path = experiment.parent / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"experiment": str(experiment), **content}, sort_keys=False))
        return path

    return make


@pytest.fixture
def finetune(experiment) -> Path:
    """The fine-tune of the tiny experiment."""
    path = experiment.parent / "tiny_finetune.yaml"
    network = {"class_path": "hn.hypernets.finetune.LoraFinetune", "init_args": {"rank": "${vars.rank}"}}
    path.write_text(yaml.safe_dump({"extends": "tiny.yaml", "model": {"hypernet": network}}))
    return path


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def modified(folder: Path) -> dict[str, int]:
    """When files of the trainings and tests were written, those of the study itself left out."""
    own = ("results.json", "results.csv", "table.txt", "figures/")
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.stat().st_mtime_ns for name, path in files.items() if not name.startswith(own)}


@pytest.mark.slow
def test_a_study_trains_each_variant_once_and_sets_them_side_by_side(write, tmp_path, capsys):
    file = write(vary={"vars.rank": [1, 2]}, options={"callbacks.images": None})
    main(["study", "--config", str(file), "--trainer.max_steps", "3"])
    printed = capsys.readouterr().out
    folder = tmp_path / "runs" / "study_tried"
    assert f"results      {folder / 'results.json'}" in printed
    assert "study tried, 2 of 2: training rank=2" in printed
    assert (folder / "table.txt").read_text().strip() in printed
    results = read(folder / "results.json")
    assert results["axes"] == {"vars.rank": ["1", "2"]} and results["options"] == {"callbacks.images": None}
    assert list(results["variants"]) == ["rank=1", "rank=2"]
    for rank, (name, variant) in enumerate(results["variants"].items(), start=1):
        assert variant["options"] == {"vars.rank": rank} and variant["training"]["steps"] == 3
        assert variant["methods"] == read(folder / name / "results.json")["methods"]
        assert read(folder / name / "hypernet" / "adapter_config.json")["r"] == rank
        assert not (folder / name / "images").exists()
    first, second = (variant["methods"] for variant in results["variants"].values())
    assert first["base"]["reward"] == second["base"]["reward"]
    assert first["hypernetwork"]["reward"] != second["hypernetwork"]["reward"]
    rows = (folder / "results.csv").read_text().splitlines()
    assert rows[0].startswith("variant,vars.rank,method,reward,") and len(rows) == 5
    for name in ("study", "curves"):
        assert Image.open(folder / "figures" / f"{name}.png").width > 1000
        assert (folder / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")

    # again: nothing is trained; a value more is trained alone
    before = modified(folder)
    file = write(vary={"vars.rank": [1, 2, 3]}, options={"callbacks.images": None})
    main(["study", "--config", str(file), "--trainer.max_steps", "3"])
    printed = capsys.readouterr().out
    assert printed.count(": training ") == 1 and "3 of 3: training rank=3" in printed
    after = modified(folder)
    assert {path: after[path] for path in before} == before
    assert list(read(folder / "results.json")["variants"]) == ["rank=1", "rank=2", "rank=3"]


@pytest.mark.slow
def test_an_interrupted_study_goes_on_from_the_checkpoint(write, experiment, tmp_path, capsys, monkeypatch):
    options = {"callbacks.images": None, "trainer.max_steps": 4, "model.decay_steps": 4}
    file = write(vary={"vars.rank": [1, 2]}, options=options)
    step, signals = NoiseHypernetModule.training_step, [signal.SIGINT]

    def interrupted(self, *batch):
        is_second = self.hypernet.rank == 2
        if is_second and self.trainer.global_step == 2 and signals:
            os.kill(os.getpid(), signals.pop())
        return step(self, *batch)

    monkeypatch.setattr(NoiseHypernetModule, "training_step", interrupted)
    with pytest.raises(SystemExit) as caught:
        main(["study", "--config", str(file)])
    assert caught.value.code == 130
    folder = tmp_path / "runs" / "study_tried"
    assert torch.load(folder / "rank=2" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 3
    assert list(read(folder / "results.json")["variants"]) == ["rank=1"]  # what there was
    before = modified(folder / "rank=1")
    main(["study", "--config", str(file)])
    assert modified(folder / "rank=1") == before
    assert list(read(folder / "results.json")["variants"]) == ["rank=1", "rank=2"]
    assert "1 of 2" not in capsys.readouterr().out.split("2 of 2: training rank=2")[2]

    words = [f"--{name}={json.dumps(value)}" for name, value in options.items()]
    main(["train", "--config", str(experiment), "--run.name", "whole", *words])
    weights = [
        load_file(run / "hypernet" / "adapter_model.safetensors")
        for run in (folder / "rank=2", tmp_path / "runs" / "tiny" / "whole")
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


@pytest.mark.slow
def test_experiments_by_name_are_tested_with_other_options(write, experiment, finetune, tmp_path, capsys):
    named = {"trained_f": str(experiment), "trained_g": str(finetune)}
    file = write(
        experiment=named,
        test={"model.generator.init_args.steps": [1, 2]},
        options={"callbacks.images": None},
        show=["reward", "nfe", "diversity", "geneval.colors", "rewards.redness"],
    )
    main(["study", "--config", str(file)])
    folder = tmp_path / "runs" / "study_tried"
    variants = read(folder / "results.json")["variants"]
    names = [f"{name},steps={steps}" for name in named for steps in (1, 2)]
    assert list(variants) == names
    methods = [variants[name]["methods"] for name in names]
    assert [list(found) for found in methods] == [["base", "hypernetwork"]] * 2 + [["base", "finetune"]] * 2
    assert [found["base"]["nfe"] for found in methods] == [1, 2, 1, 2]
    assert [[*found.values()][1]["nfe"] for found in methods] == [2, 3, 1, 2]
    for name in named:  # at the steps of the training, the test after it once more
        trained = read(folder / name / "results.json")["methods"]
        again = variants[f"{name},steps=1"]["methods"]
        assert [entry["reward"] for entry in again.values()] == [entry["reward"] for entry in trained.values()]
        assert variants[f"{name},steps=2"]["run"] == str(folder / name)
    assert methods[0]["base"]["reward"] == methods[2]["base"]["reward"] != methods[1]["base"]["reward"]
    table, _ = (folder / "table.txt").read_text().split("95 % intervals of the difference to the base\n")
    table = [line.split() for line in table.splitlines()]
    rows = [row[:2] for row in table if row and row[0] in ("base", *named)]
    assert rows == [["base", "1"], ["base", "2"]] + [[name, steps] for name in named for steps in "12"]

    before = modified(folder)
    capsys.readouterr()
    main(["study", "--config", str(file)])
    assert "training" not in capsys.readouterr().out and modified(folder) == before


@pytest.fixture
def refused(write, refuse, tmp_path):
    """The one message with which a study of this content is refused, before anything is trained."""

    def message(*options: str, **content) -> str:
        shown = refuse("study", "--config", write(**content), *options)
        assert not (tmp_path / "runs").exists()
        return shown

    return message


RANK = {"vars.rank": [1, 2]}


def test_what_is_wrong_in_the_file_is_said_before_variants_are_looked_at(refused, refuse, monkeypatch):
    monkeypatch.setattr("hn.cli.study.run.plan_study", lambda *_: pytest.fail("variants are looked at"))
    assert "must be the configuration file that is varied, or several" in refused(experiment=None, vary=RANK)
    assert "`vary: vars.rank` must be a list of values" in refused(vary={"vars.rank": []})
    assert "`vary: vars.rank` must be a list of values" in refused(vary={"vars.rank": 3})
    assert "has the same value twice" in refused(vary={"vars.rank": [1, 1]})
    assert "'a/b', which cannot be a part of a folder's name" in refused(vary={"run.pretrained": ["a/b"]})
    assert "this one varies nothing" in refused()
    assert "varies vars.rank, model.seed, model.noise_type" in refused(
        vary={**RANK, "model.seed": [1]}, test={"model.noise_type": ["inf"]}
    )
    assert "vars.rank is varied, and among the `options`" in refused(vary=RANK, options={"vars.rank": 3})
    assert "`show` has GenEval, which cannot be shown; metrics are reward, held_out_reward, geneval," in refused(
        vary=RANK, show=["GenEval"]
    )
    assert "`show` has rewards, which cannot be shown; " in refused(vary=RANK, show=["rewards"])
    assert "is no study: it has model, trainer" in refused(vary=RANK, model={}, trainer={})
    assert "--run.name is set by the study; leave it out" in refused("--run.name", "x", vary=RANK)
    assert "There is no configuration file nowhere.yaml" in refuse("study", "--config", "nowhere.yaml")
    assert "argument --config/-c: expected one argument" in refuse("study", "--config")
    assert "A study is missing: hn study --config NAME|FILE.yaml" in refuse("study")


@pytest.mark.slow
def test_what_is_wrong_with_a_variant_is_said_before_anything_is_trained(refused):
    assert "reward_wieght=2: " in (message := refused(vary={"model.reward_wieght": [2, 3]}))
    assert "--model.reward_wieght: did you mean --model.reward_weight?" in message
    assert "reward_weight=much: " in refused(vary={"model.reward_weight": [1, "much"]})
    assert "rank=0: " in refused(vary={"vars.rank": [1, 0]})
    message = refused(vary={"vars.rnak": [1, 2]})
    assert "rnak=1 and rnak=2 are the same: nothing depends on vars.rnak" in message
    assert "There is no configuration file none.yaml" in refused(experiment="none.yaml", vary=RANK)
    assert "needs the callback hn.training.callbacks.evaluation.Ev" in refused(
        vary=RANK, options={"callbacks.evaluation": None}
    )
    assert "trains on one device" in refused("--trainer.devices=2", vary=RANK)
    assert "--trainer.max_stesp: did you mean --trainer.max_steps?" in refused("--trainer.max_stesp=2", vary=RANK)


@pytest.mark.slow
def test_results_of_other_settings_are_not_mixed(write, refuse, tmp_path):
    file = write(vary={"vars.rank": [1]}, options={"callbacks.images": None})
    main(["study", "--config", str(file)])
    before = modified(tmp_path / "runs")
    message = refuse("study", "--config", file, "--model.reward_weight=2")
    assert "study_tried/rank=1 was begun with other settings: 1 changed (model.reward_weight was 1.0 and is" in message
    assert modified(tmp_path / "runs") == before


def point(labels: tuple[str, ...], base: float, reward: float) -> Point:
    """A point with an interval of 0.25 around the difference to the base."""
    bounds = [reward - base - 0.25, reward - base + 0.25]
    trained = {"reward": reward, "reward_delta_ci95": bounds, "geneval": {"overall": 0.5, "colors": 0.125}}
    base_entry = {"reward": base, "geneval": None}
    return Point(",".join(labels), labels, {}, Path("run"), {}, base_entry, "hypernetwork", trained)


def test_table_and_figure_of_a_grid(tmp_path):
    file = tmp_path / "grid.yaml"
    content = {"vary": {"model.regulariser": ["mean", "sum"], "model.reward_weight": [1, 100]}}
    content |= {"experiment": "x.yaml", "show": ["reward", "geneval.colors"]}
    file.write_text(yaml.safe_dump(content))
    study = read_study(file)
    assert [variant.name for variant in study.variants] == [
        f"regulariser={kind},reward_weight={weight}" for kind in ("mean", "sum") for weight in (1, 100)
    ]
    rewards = {("mean", "1"): 0.5, ("mean", "100"): 0.75, ("sum", "1"): 0.25, ("sum", "100"): 1.0}
    points = [point(labels, 0.125, reward) for labels, reward in rewards.items()]
    rows = [line.split() for line in study_table(study, points).splitlines()]
    assert ["base", "0.125", "-"] in rows and sum(row[:1] == ["base"] for row in rows) == 1
    assert ["mean", "100", "0.750", "0.125"] in rows and ["sum", "1", "-0.125", "..", "+0.375"] in rows

    reward, colors = draw_study(study, points).axes
    assert (reward.get_title(), colors.get_title()) == ("Trained reward", "GenEval: colors")
    assert reward.get_xscale() == "log" and [text.get_text() for text in reward.get_xticklabels()] == ["1", "100"]
    drawn = {line.get_label(): line for line in reward.lines}
    assert drawn["sum"].get_xydata().tolist() == [[1, 0.25], [100, 1.0]]
    assert set(drawn["base"].get_ydata()) == {0.125}
    bars = [line.get_xydata().tolist() for line in reward.lines if line.get_label().startswith("_")]
    assert [[1, 0.25], [1, 0.75]] in bars and len(bars) == 4
    (left, low), (right, high) = reward.viewLim.get_points()
    assert left < 1 and right > 100 and low < 0.0 and high > 1.25  # from one bar's end to another's
    beside = [drawn[name].get_transform().transform([(1, 0.25)])[0, 0] for name in ("mean", "sum")]
    assert beside[0] < beside[1]
    assert not any(line.get_label() == "base" for line in colors.lines)


def test_means_over_seeds_have_students_interval(tmp_path):
    file = tmp_path / "seeds.yaml"
    content = {"experiment": {"f": "f.yaml", "g": "g.yaml"}, "vary": {"seed_everything": [0, 1, 2]}, "show": ["reward"]}
    file.write_text(yaml.safe_dump(content))
    study = read_study(file)
    rewards = {("f", "0"): 0.25, ("f", "1"): 0.5, ("f", "2"): 0.75, ("g", "0"): 1.0}
    points = [point(labels, 0.125, reward) for labels, reward in rewards.items()]
    assert means_over_seeds(study, points) == {("f",): {"reward": [0.25, 0.5, 0.75]}, ("g",): {"reward": [1.0]}}
    mean, interval = mean_and_interval([0.25, 0.5, 0.75])
    half = 4.302653 * 0.25 / 3**0.5  # t(.975, 2) of the tables
    assert mean == 0.5 and interval == pytest.approx([0.5 - half, 0.5 + half], abs=1e-6)
    rows = [line.split() for line in study_table(study, points).splitlines()]
    assert ["f", "3", "0.500", "±", "0.621"] in rows and ["g", "1", "1.000"] in rows


def test_values_that_are_no_numbers_are_in_their_order(tmp_path):
    file = tmp_path / "kinds.yaml"
    content = {"experiment": {"f": "f.yaml", "g": "g.yaml"}, "show": ["reward"]}
    file.write_text(yaml.safe_dump(content))
    study = read_study(file)
    (axes,) = draw_study(study, [point(("f",), 0.0, 1.0), point(("g",), 0.5, 2.0)]).axes
    assert [text.get_text() for text in axes.get_xticklabels()] == ["f", "g"]
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines["hypernetwork"] == [[0, 1], [1, 2]] and lines["base"] == [[0, 0], [1, 0.5]]


def test_there_are_the_studies_of_the_paper_and_of_the_estimators():
    assert {file.stem for file in FILES} == {"redness", "steps", "rank", "regulariser", "diversity", "estimators"}


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_every_study_is_what_its_experiments_can_do(file, monkeypatch, tmp_path):
    """All variants parse, fit their generator, and differ."""
    monkeypatch.chdir(ROOT)
    study = read_study(file)
    steps = plan_study(study, [f"--run.root={tmp_path}"])
    assert len(steps) == len(study.variants) * (1 + len(study.tests))
    assert {step.folder.parent for step in steps} == {tmp_path / f"study_{file.stem}"}
    by_method = {step.settings["model"]["hypernet"]["class_path"]: step for step in steps}
    arguments = [step.settings["model"]["hypernet"]["init_args"] for step in by_method.values()]
    assert len({each["rank"] for each in arguments if "rank" in each}) == 1
    text = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    assert f"make study STUDY={file.stem}" in text
    assert not (tmp_path / f"study_{file.stem}").exists()
