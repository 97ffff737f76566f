import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from hn.callbacks.evaluation import Evaluation
from hn.evaluation.compare import measure, reference_features
from hn.evaluation.methods import Sampled
from hn.hypernets import LoraFinetune

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
    names = SCORES | {"kl_nats", "fidelity", "diversity"}
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
            "fidelity": summary["fidelity"],
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


def test_without_detector_and_fidelity_there_is_neither(make_module, make_data, make_trainer):
    evaluation = Evaluation(fidelity=False)
    trainer = make_trainer(callbacks=[evaluation])
    trainer.validate(make_module(images_per_prompt=1), datamodule=make_data(), verbose=False)
    assert trainer.callback_metrics.keys() == {
        f"val/{prefix}{name}" for name in REWARDS | {"kl_nats"} for prefix in ("", "base_")
    }


def test_a_checkpoint_can_be_chosen_by_what_was_not_trained_on(fit, tmp_path):
    best = ModelCheckpoint(tmp_path, "best", monitor="val/held_out_reward", mode="max")
    _, _, _, scores = fit(callbacks=[best])
    assert float(best.best_model_score) == pytest.approx(max(score["val/held_out_reward"] for score in scores))
    assert (tmp_path / "best.ckpt").is_file()


def test_mixed_precision_scores_base_and_trained_model_alike(fit):
    """The base's images are made under autocast too: without training, they are the trained model's."""
    _, _, _, scores = fit(precision="bf16-mixed", max_steps=1, val_check_interval=1, lr=0.0)
    (score,) = scores
    for name in SCORES | {"fidelity", "diversity"}:
        assert score[f"val/{name}"] == score[f"val/base_{name}"], name
