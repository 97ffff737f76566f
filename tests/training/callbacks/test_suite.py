"""Prompt suites in training and after it."""

import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from hn.cli.embed import experiment_prompts
from hn.cli.subcommands import SUBCOMMANDS
from hn.evaluation.comparison.measure import measure
from hn.evaluation.methods import Sampled
from hn.report.curves import read_scalars
from hn.training.callbacks.evaluation import Evaluation
from hn.training.callbacks.suite import PromptSuite, batches_of_rank, suites_in

ROWS = [
    {"prompt": "a red cube left of a ball", "category": "Two Things"},
    {"prompt": "the blue ball", "category": "One & Only"},  # trained on
    {"prompt": "a photo of a green cube", "category": "One & Only"},
    {"prompt": "a photo of two ball", "category": "Two Things"},
    {"prompt": "a photo", "category": "One & Only"},
]
SUITE = "hn.training.callbacks.suite.PromptSuite"


@pytest.fixture
def prompts(tmp_path) -> Path:
    path = tmp_path / "suite.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture
def run(make_module, make_data, make_trainer, tmp_path):
    """Trains and tests with a suite, its options given; `.scalars` is what was logged."""

    def call(command: str, suite: PromptSuite, *callbacks, **options):
        logger = TensorBoardLogger(str(tmp_path), name="", version="")
        trainer = make_trainer(callbacks=[suite, *callbacks], logger=logger, **{"max_steps": 4, **options})
        module = make_module(images_per_prompt=1, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.5))
        getattr(trainer, command)(module, datamodule=make_data())
        logger.finalize("success")
        return module, trainer

    return call


def test_a_suite_is_measured_in_training_and_at_the_end(run, prompts, tmp_path, monkeypatch, capsys, caplog):
    calls = []
    measured = Sampled.run
    monkeypatch.setattr(Sampled, "run", lambda self, *args: (calls.append(self.name), measured(self, *args))[1])
    suite = PromptSuite("words", str(prompts), "category", images_per_prompt=2, every_n_steps=2, batch_size=3)
    with caplog.at_level("INFO"):
        module, _ = run("train", suite)
    assert calls == ["base"] * 2  # two batches, once
    assert "1 prompts of words are trained on and left out of it" in caplog.text

    record = measure(module.trained_method(), suite.scorer, module.generator, suite.suite.batches(3), 2, 0)
    results = json.loads((tmp_path / "results_words.json").read_text())
    assert results["suite"] == {
        "name": "words", "prompts": str(prompts), "measured": 4, "left_out_as_trained_on": 1, "images_per_prompt": 2,
        "seed": 0,
    }  # fmt: skip
    methods = results["methods"]
    assert methods.keys() == {"base", "hypernetwork"}
    assert methods["hypernetwork"]["reward"] == pytest.approx(record.mean("reward"), abs=1e-6)
    assert methods["hypernetwork"]["reward"] != methods["base"]["reward"]
    assert len(methods["hypernetwork"]["reward_delta_ci95"]) == 2 and methods["base"]["diversity"] > 0
    index = record.column("index")
    own = {name: [i for i, row in enumerate(ROWS) if row["category"] == name] for name in ("Two Things", "One & Only")}
    for name, members in own.items():
        mask = torch.isin(index, torch.tensor(members))
        found = methods["hypernetwork"]["categories"][name]
        assert (found["prompts"], found["images"]) == (2, 4)
        for key, column in (("reward", "reward"), ("held_out_reward", "held_out")):
            assert found[key] == pytest.approx(float(record.column(column)[mask].mean()), abs=1e-6)
    shown = capsys.readouterr().out
    assert "words: 4 prompts, 2 images each" in shown and "Two Things" in shown

    scalars = read_scalars(tmp_path)
    assert scalars["words/reward"][0] == [2, 4]
    assert scalars["words/base_reward"][1][0] == pytest.approx(methods["base"]["reward"])
    assert scalars["words/reward"][1][1] == pytest.approx(methods["hypernetwork"]["reward"], abs=1e-6)
    assert scalars["words/reward"][1][0] != scalars["words/reward"][1][1]
    expected = methods["hypernetwork"]["categories"]["One & Only"]["held_out_reward"]
    assert scalars["words/one_only/held_out_reward"][1][-1] == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_training_is_the_same_with_and_without_it(run, prompts, tmp_path):
    suite = PromptSuite("words", str(prompts), every_n_steps=1, at_end=False)
    with_suite, _ = run("fit", suite)
    without, _ = run("fit", PromptSuite("words", str(prompts)))
    for one, other in zip(with_suite.parameters(), without.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not (tmp_path / "results_words.json").exists()
    assert [part.training for part in with_suite.modules()] == [part.training for part in without.modules()]


def test_a_checkpoint_can_be_chosen_by_a_suite(run, prompts, tmp_path):
    best = ModelCheckpoint(tmp_path / "best", "best", monitor="words/held_out_reward", mode="max")
    run("fit", PromptSuite("words", str(prompts), every_n_steps=2), best)
    logged = read_scalars(tmp_path)["words/held_out_reward"][1]
    assert float(best.best_model_score) == pytest.approx(max(logged), abs=1e-6)


@pytest.mark.slow
def test_verdicts_are_the_evaluations(run, tiny_prompts, tiny_detector, tmp_path):
    evaluation = Evaluation(tiny_detector)
    run("train", PromptSuite("again", str(tiny_prompts / "test.jsonl")), evaluation)
    results = json.loads((tmp_path / "results_again.json").read_text())["methods"]["hypernetwork"]
    summary = evaluation.summaries("test")["hypernetwork"]
    assert results["geneval"] == summary["geneval"]
    assert results["reward"] == pytest.approx(summary["reward"], abs=1e-6)


def test_a_test_knows_what_was_trained_on(run, prompts):
    suite = PromptSuite("words", str(prompts))
    run("test", suite)
    assert suite.suite.n_excluded == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "val"}, "none of train, val"),
        ({"name": "a/b"}, "not 'a/b'"),
        ({"images_per_prompt": 0}, "must be at least 1"),
        ({"every_n_steps": 0}, "must be at least 1"),
        ({"limit": 0}, "must be at least 1"),
        ({"at_end": False}, "words would never be measured"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PromptSuite(**{"name": "words", "prompts": "drawbench", **options})


def test_what_is_wrong_with_prompts_is_said_before_training(run, prompts, tmp_path):
    with pytest.raises(ValueError, match="no prompt has a 'kind'"):
        run("fit", PromptSuite("words", str(prompts), "kind"))
    with pytest.raises(ValueError, match="Two prompt suites are called words"):
        run("fit", PromptSuite("words", str(prompts)), PromptSuite("words", str(prompts)))
    (tmp_path / "cow.txt").write_text("a cow\n")
    with pytest.raises(ValueError, match="'cow'"):
        run("fit", PromptSuite("words", str(tmp_path / "cow.txt")))


def with_suite(experiment: Path, **arguments) -> list[str]:
    arguments = {"name": "words", **arguments}
    section = {"class_path": SUITE, "init_args": arguments}
    return ["--config", str(experiment), f"--callbacks.suite={json.dumps(section)}"]


def test_names_of_sets_are_checked_with_those_of_the_data(experiment, refuse):
    message = refuse("train", *with_suite(experiment, prompts="drawbnch"))
    assert "there is no prompt set 'drawbnch'; did you mean drawbench" in message


def test_prompts_are_read_before_models_are(experiment, refuse, prompts):
    message = refuse("train", *with_suite(experiment, prompts=str(experiment.parent / "missing.txt")))
    assert "missing.txt: there is no such prompt file" in message
    assert "no prompt has a 'kind'" in refuse("fit", *with_suite(experiment, prompts=str(prompts), category="kind"))


def test_sets_of_suites_are_fetched_where_they_are_needed(experiment, refuse, monkeypatch, tmp_path):
    monkeypatch.setenv("HN_PROMPTS", str(tmp_path / "empty"))

    def refused(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.OpenerDirector.open", refused)
    for command in ("train", "embed"):
        assert "drawbench" in refuse(command, *with_suite(experiment, prompts="drawbench"))


def test_conditioning_covers_suites(make_data, prompts, tiny_prompts):
    files = {name: str(tiny_prompts / f"{name}.jsonl") for name in ("train", "val", "test")}
    data = {"class_path": "hn.data.module.PromptDataModule", "init_args": files}
    callbacks = {
        "suite": {"class_path": SUITE, "init_args": {"name": "words", "prompts": str(prompts), "limit": None}},
        "images": {"class_path": "hn.training.callbacks.images.ImageGrid", "init_args": {"prompts": ["two cube"]}},
        "dropped": None,
    }
    assert [own["name"] for own in suites_in(callbacks)] == ["words"]
    own = {row["prompt"] for row in ROWS} - {"the blue ball"}
    for name, expected in (("train", True), ("embed", True), ("test", True), ("compare", False), ("validate", False)):
        command = SUBCOMMANDS[name]
        found = [*experiment_prompts(command.stages, command.has_suites, data, callbacks)]
        assert (own <= set(found)) is expected
        assert found[-1] == "two cube"


@pytest.mark.parametrize(("count", "ranks"), [(1, 1), (5, 1), (4, 2), (5, 2), (1, 3), (2, 5)])
def test_all_processes_get_as_many_batches_and_together_all_of_them(count, ranks):
    shares = [batches_of_rank([*range(count)], rank, ranks) for rank in range(ranks)]
    assert len({len(share) for share in shares}) == 1
    assert {batch for share in shares for batch in share} == set(range(count))
    assert sum(map(len, shares)) < count + ranks
