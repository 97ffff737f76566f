import json

import pytest
import torch
from huggingface_hub import constants
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from hn.evaluation.benchmarks.base import BenchmarkMetric, ImageScores
from hn.evaluation.comparison.measure import measure, reference_features
from hn.evaluation.methods import Sampled
from hn.evaluation.metrics.cmmd import cmmd, frechet_distance, kid
from hn.evaluation.metrics.diversity import pairwise_cosine_distance
from hn.evaluation.metrics.noise_diagnostics import NoiseDiagnostics
from hn.evaluation.samples import Samples
from hn.hypernets import LoraFinetune
from hn.training.callbacks.evaluation import Evaluation

REWARDS = {"reward", "reward_clip", "reward_redness", "held_out_reward", "held_out_clip_held_out"}
SCORES = REWARDS | {"geneval", "geneval_colors", "geneval_counting"}


class Validations(Callback):
    """Keeps the scores of each validation."""

    def __init__(self):
        self.scores = []

    def on_validation_end(self, trainer, pl_module):
        self.scores.append({k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")})


@pytest.fixture
def fit(make_module, make_data, make_trainer, tiny_detector):
    def run(hypernet=None, callbacks=(), lr=0.02, **options):
        module = make_module(
            hypernet, images_per_prompt=2, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=lr)
        )
        evaluation, validations = Evaluation(tiny_detector), Validations()
        trainer = make_trainer(callbacks=[evaluation, validations, *callbacks], **{"max_steps": 4, **options})
        trainer.fit(module, datamodule=make_data(eval_batch_size=2))
        return module, trainer, evaluation, validations.scores

    return run


def test_base_and_trained_model_are_scored_side_by_side(fit, make_data):
    module, _, evaluation, scores = fit()
    assert len(scores) == 2
    names = SCORES | {"kl_nats", "cmmd", "diversity"}
    assert scores[0].keys() == {f"val/{prefix}{name}" for name in names for prefix in ("", "base_")}
    # the same as measured by hand, on all prompts, whatever the batches
    data = make_data()
    data.setup("validate")
    for prefix, method in (("", module.trained_method()), ("base_", module.base_method())):
        record = measure(method, evaluation.scorer, module.generator, data.val_dataloader(), 2, 0)
        reference = reference_features(module.generator, evaluation.scorer, data.val_dataloader(), 2, 0)
        summary = record.summary(reference=reference)
        expected = {
            "reward": summary["reward"],
            "reward_redness": summary["rewards"]["redness"],
            "held_out_reward": summary["held_out_reward"],
            "held_out_clip_held_out": summary["held_out_rewards"]["clip_held_out"],
            "geneval": summary["geneval"]["overall"],
            "kl_nats": summary["kl_nats"],
            "cmmd": summary["cmmd"],
            "diversity": summary["diversity"],
        }
        for name, value in expected.items():
            assert scores[-1][f"val/{prefix}{name}"] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    assert scores[-1]["val/kl_nats"] != scores[0]["val/kl_nats"]
    assert min(score["val/kl_nats"] for score in scores) > 0
    assert scores[-1]["val/base_kl_nats"] == 0
    assert scores[-1]["val/base_reward"] == scores[0]["val/base_reward"]


def test_the_base_is_measured_once(fit, monkeypatch):
    calls = []
    run = Sampled.run
    monkeypatch.setattr(Sampled, "run", lambda self, *args: (calls.append(self.name), run(self, *args))[1])
    fit()
    assert calls == ["base"] * 3  # three batches of the first validation


@pytest.mark.slow
def test_a_sanity_check_is_no_measurement(fit):
    _, _, evaluation, scores = fit(num_sanity_val_steps=1, max_steps=2)
    assert len(scores) == 2  # the sanity check's, and that of the validation
    assert len(evaluation.base["val"]) == 10


def test_limited_validation_is_compared_with_a_limited_reference(fit):
    _, _, evaluation, _ = fit(limit_val_batches=2, max_steps=2)
    assert len(evaluation.record) == len(evaluation.base["val"]) == len(evaluation.references["val"]["features"]) == 8


def test_a_fine_tune_has_no_cost_in_noise_space(fit):
    _, _, _, scores = fit(LoraFinetune(rank=2), max_steps=2)
    assert "val/kl_nats" not in scores[0]
    assert scores[0]["val/base_kl_nats"] == 0


def test_summaries_are_the_entries_of_results(fit, make_data):
    module, trainer, evaluation, _ = fit(max_steps=2)
    trainer.test(module, datamodule=make_data(), verbose=False)
    summaries = evaluation.summaries("test")
    assert list(summaries) == ["base", "hypernetwork"]
    assert (summaries["base"]["nfe"], summaries["hypernetwork"]["nfe"]) == (1, 2)
    assert "reward_delta_ci95" in summaries["hypernetwork"]
    assert "reward_delta_ci95" not in summaries["base"]
    assert summaries["base"]["images"] == 10


def test_without_detector_and_cmmd_there_is_neither(make_module, make_data, make_trainer):
    evaluation = Evaluation(cmmd=False)
    trainer = make_trainer(callbacks=[evaluation])
    trainer.validate(make_module(images_per_prompt=1), datamodule=make_data(), verbose=False)
    assert trainer.callback_metrics.keys() == {
        f"val/{prefix}{name}" for name in REWARDS | {"kl_nats"} for prefix in ("", "base_")
    }


class Channels:
    """Means of the colour channels, as features."""

    def image_features(self, images):
        return images.mean(dim=(2, 3))


class Brighter:
    """The difference of mean brightness, as a distance."""

    def image_distance(self, first, second):
        return (first - second).mean(dim=(1, 2, 3)).abs()


class Brightness(BenchmarkMetric):
    """Mean brightness, for prompts with a cube."""

    needs, score_names = "a cube", ("brightness",)

    @classmethod
    def asks(cls, row):
        return "cube" in row["prompt"]

    def score(self, images, rows):
        return [ImageScores({"brightness": float(image.mean())}) for image in images]


def test_metrics_of_benchmarks_are_logged_and_kept(make_module, make_data, make_trainer):
    evaluation = Evaluation(cmmd=False, benchmarks=[Brightness()])
    trainer = make_trainer(callbacks=[evaluation])
    trainer.test(make_module(images_per_prompt=1), datamodule=make_data(), verbose=False)
    scores = evaluation.record.column("benchmark/brightness")
    assert 0 < scores.isnan().sum() < len(scores)
    mean = float(scores.nanmean())
    assert evaluation.summaries("test")["hypernetwork"]["benchmarks"] == {"brightness": pytest.approx(mean)}
    assert float(trainer.callback_metrics["test/benchmark_brightness"]) == pytest.approx(mean)
    assert "test/base_benchmark_brightness" in trainer.callback_metrics


def test_features_of_ones_own_give_distances_and_diversity(make_module, make_data, make_trainer):
    evaluation = Evaluation(features={"channels": Channels(), "brighter": Brighter()})
    module, trainer, data = make_module(images_per_prompt=3), make_trainer(callbacks=[evaluation]), make_data()
    trainer.test(module, datamodule=data, verbose=False)
    record, reference = evaluation.record, evaluation.references["test"]
    found, own = record.column("features/channels"), reference["features/channels"]
    expected = {"fid": frechet_distance(found, own), "kid": kid(found, own), "cmmd": cmmd(found, own)}
    expected["diversity"] = pairwise_cosine_distance(found, record.column("index"))
    summaries = evaluation.summaries("test")
    assert summaries["hypernetwork"]["distances"]["channels"] == pytest.approx(expected)
    brightness = found.mean(dim=1).view(5, 3)
    pairs = torch.stack([(brightness[:, i] - brightness[:, j]).abs() for i, j in ((0, 1), (0, 2), (1, 2))])
    brighter = summaries["base"]["distances"]["brighter"]
    assert brighter == pytest.approx({"diversity": float(pairs.mean())}, rel=1e-4)
    for name, value in expected.items():
        assert float(trainer.callback_metrics[f"test/{name}_channels"]) == pytest.approx(value, rel=1e-5)
    assert {"test/base_diversity_brighter", "test/diversity"} <= trainer.callback_metrics.keys()


def test_features_and_diagnostics_come_from_a_configuration(experiment, refuse, monkeypatch, tmp_path):
    """Weights that are missing are named at once, and numbers out of range."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    command = ["train", "--config", str(experiment)]
    options = "--callbacks.evaluation.init_args."
    features = {"dino": {"class_path": "hn.evaluation.metrics.features.TimmFeatures", "init_args": {"size": 224}}}
    message = refuse(*command, f"{options}features={json.dumps(features)}")
    assert "hf download timm/vit_small_patch14_dinov2.lvd142m" in message
    message = refuse(*command, f"{options}noise_diagnostics.terms=1", silent=False)
    assert "noise_diagnostics needs at least one prompt" in message


@pytest.mark.slow
def test_the_kl_that_the_objective_leaves_out_is_estimated(make_module, make_data, make_trainer):
    diagnostics = NoiseDiagnostics(prompts=2, probes=2, iterations=3, batch_size=2)
    evaluation = Evaluation(noise_diagnostics=diagnostics)
    module, trainer, data = make_module(images_per_prompt=1), make_trainer(callbacks=[evaluation]), make_data()
    with torch.no_grad():
        for parameter in module.hypernet.parameters():
            if parameter.requires_grad:
                parameter += 0.005 * torch.randn_like(parameter)
    trainer.test(module, datamodule=data, verbose=False)
    prompts = data.datasets["test"].prompts[:2]
    expected = diagnostics(module.hypernet, module.generator, Samples.of_prompts(module.generator, prompts, 1, 0))
    summaries = evaluation.summaries("test")
    assert summaries["hypernetwork"]["noise_diagnostics"] == pytest.approx(expected, rel=1e-4)
    assert "noise_diagnostics" not in summaries["base"]
    for name, value in expected.items():
        assert float(trainer.callback_metrics[f"test/noise_{name}"]) == pytest.approx(value, rel=1e-4)


def test_a_fine_tune_has_no_noise_to_diagnose(make_module, make_data, make_trainer):
    evaluation = Evaluation(noise_diagnostics=NoiseDiagnostics())
    trainer = make_trainer(callbacks=[evaluation])
    trainer.validate(make_module(LoraFinetune(rank=2)), datamodule=make_data(), verbose=False)
    assert not [name for name in trainer.callback_metrics if "noise" in name]


def test_a_checkpoint_can_be_chosen_by_what_was_not_trained_on(fit, tmp_path):
    best = ModelCheckpoint(tmp_path, "best", monitor="val/held_out_reward", mode="max")
    _, _, _, scores = fit(callbacks=[best])
    assert float(best.best_model_score) == pytest.approx(max(score["val/held_out_reward"] for score in scores))
    assert (tmp_path / "best.ckpt").is_file()


def test_mixed_precision_scores_base_and_trained_model_alike(fit):
    """The base's images are made under autocast too: without training, they are the trained model's."""
    _, _, _, scores = fit(precision="bf16-mixed", max_steps=1, val_check_interval=1, lr=0.0)
    (score,) = scores
    for name in SCORES | {"cmmd", "diversity"}:
        assert score[f"val/{name}"] == score[f"val/base_{name}"], name
