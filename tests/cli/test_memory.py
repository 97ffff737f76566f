import pytest
import torch

from hn.cli.memory import is_out_of_memory, out_of_memory_message

CUDA = torch.OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1 GiB is free."
)
CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to ...")


@pytest.fixture
def config():
    """A configuration with every option that takes memory as it is by default."""
    return {
        "model": {
            "generator": {"init_args": {"gradient_checkpointing": False, "cache": False, "dtype": "float32"}},
            "hypernet": {"init_args": {"gradient_checkpointing": True}},
            "reward": {
                "init_args": {
                    "rewards": {
                        "hps": {"init_args": {"gradient_checkpointing": False}},
                        "redness": {"class_path": "hn.rewards.redness.RednessReward"},
                    },
                    "quantise": None,
                }
            },
            "images_per_prompt": 4,
            "score_batch_size": None,
        },
        "data": {"init_args": {"batch_size": 6, "eval_batch_size": 4}},
        "trainer": {"accumulate_grad_batches": 3},
    }


@pytest.mark.parametrize("error", [CUDA, CPU, MemoryError()])
def test_memory_that_is_used_up_is_known(error):
    assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))


def test_only_what_is_not_done_yet_is_advised(config):
    message = out_of_memory_message(CUDA, "train", config)
    assert message.splitlines()[0] == "Out of memory: CUDA out of memory. Tried to allocate 2.00 GiB."
    assert "--model.generator.init_args.gradient_checkpointing true" in message
    assert "--model.reward.init_args.rewards.hps.init_args.gradient_checkpointing true" in message
    assert "model.hypernet.init_args" not in message and "redness" not in message
    assert "--data.init_args.batch_size 3 --trainer.accumulate_grad_batches 6 (as many prompts per update)" in message
    for option in ("generator.init_args.cache true", "dtype bfloat16", "quantise int8", "eval_batch_size 2"):
        assert option in message
    assert "--model.score_batch_size 1 (decoded and scored in parts)" in message
    assert message.splitlines()[-1].startswith("  hn plan")

    config["model"]["generator"]["init_args"] = {"gradient_checkpointing": True, "cache": True, "dtype": "bfloat16"}
    config["model"]["reward"]["init_args"]["rewards"].pop("hps")
    config["model"]["reward"]["init_args"]["quantise"] = "int8"
    config["model"]["score_batch_size"] = 1
    config["data"]["init_args"] = {"batch_size": 1, "eval_batch_size": 1}
    message = out_of_memory_message(CPU, "train", config)
    assert message.splitlines()[2:-1] == ["  --model.images_per_prompt 2, if it happened in a validation or test"]


def test_an_evaluation_is_not_told_to_train_with_less(config):
    message = out_of_memory_message(CUDA, "test", config)
    assert "gradient_checkpointing" not in message and "accumulate" not in message
    assert "hn plan" not in message and "--data.init_args.eval_batch_size 2" in message


def test_a_training_that_runs_out_of_memory_says_what_to_do(experiment, refuse, monkeypatch):
    def step(*args):
        raise CUDA

    monkeypatch.setattr("hn.training.module.NoiseHypernetModule.training_step", step)
    message = refuse("fit", "--config", experiment, "--run.name", "one", silent=False)
    assert "error: Out of memory: CUDA out of memory. Tried to allocate 2.00 GiB." in message
    assert "--data.init_args.batch_size 2 --trainer.accumulate_grad_batches 2" in message
    assert "--model.hypernet.init_args.gradient_checkpointing true" in message


def test_a_training_without_a_finite_loss_says_what_it_is(experiment, refuse, monkeypatch):
    loss = torch.nn.functional.softplus

    def step(module, *args):
        module.terms = {"reward_clip": torch.tensor(float("nan"))}
        return sum(loss(p).sum() for p in module.hypernet.parameters() if p.requires_grad) * float("nan")

    monkeypatch.setattr("hn.training.module.NoiseHypernetModule.training_step", step)
    options = ["--callbacks.nonfinite.init_args.max_skipped_updates", "2", "--callbacks.images", "null"]
    message = refuse("fit", "--config", experiment, "--run.name", "one", *options, silent=False)
    assert "error: The last 2 updates were skipped, up to update 2: reward_clip is nan" in message
