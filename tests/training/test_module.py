import math
from functools import partial

import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler
from lightning.pytorch import Callback
from lightning.pytorch.plugins import MixedPrecision
from torch import nn

from hn.generators.noise import BatchSlice, TrainingNoise, training_streams
from hn.hypernets import LoraFinetune, LoraHypernet
from hn.rewards import RewardEnsemble
from hn.training.module import NoiseHypernetModule

PROMPTS = ["a red ball", "two cube"]
BATCH = {"prompt": PROMPTS, "metadata": [{"prompt": text} for text in PROMPTS], "index": torch.tensor([0, 1])}


def scramble(module: nn.Module, scale: float = 0.05) -> nn.Module:
    """Give the trainable weights values as after training: f and its gradient are not 0 any more."""
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.hypernet.parameters():
            if parameter.requires_grad:
                parameter += scale * torch.randn(parameter.shape, generator=rng, dtype=parameter.dtype)
    return module


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


class Recorder(Callback):
    """Keeps gradients before an update, and the noise of each batch."""

    def __init__(self):
        self.learning_rates, self.norms, self.without_gradient = [], [], set()

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.learning_rates.append(optimizer.param_groups[0]["lr"])
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.norms.append(float(torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in parameters]))))
        self.without_gradient |= {name for name, p in pl_module.named_parameters() if p.grad is None}


@pytest.mark.parametrize(
    ("network", "regulariser", "part"),
    [
        (LoraHypernet, "mean", None),
        (LoraHypernet, "mean", 1),
        (LoraHypernet, "sum", None),
        (LoraFinetune, "mean", None),
    ],
)
def test_gradient_of_the_objective_is_that_of_finite_differences(make_module, network, regulariser, part):
    options = {"regulariser": regulariser, "reward_weight": 3.0, "noise_type": "inf", "score_batch_size": part}
    module = make_module(network(rank=2), dtype="float64", **options)
    scramble(module)
    module.training_step(BATCH, 0).backward()
    weights = trainable(module)
    names = [name for name in weights if "conv_in" in name or "conv_out" in name or "attn2.to_v" in name]
    assert len(names) > 4
    step = 1e-6
    for name in names:
        weight = weights[name]
        place = int(weight.grad.abs().argmax())
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                weight.flatten()[place] += sign * step
                losses.append(float(module.training_step(BATCH, 0)))
                weight.flatten()[place] -= sign * step
        expected = (losses[0] - losses[1]) / (2 * step)
        assert abs(expected) > 1e-5, name
        assert float(weight.grad.flatten()[place]) == pytest.approx(expected, rel=1e-4), name


def test_loss_is_regulariser_minus_weighted_reward(make_module):
    module = scramble(make_module(regulariser="sum", reward_weight=3.0, seed=4))
    noise = TrainingNoise("inf")(2, module.generator, 4, 0)
    conditioning = module.generator.encode(PROMPTS)
    f = module.hypernet(noise, conditioning)
    reward = module.reward(module.generator.generate(noise + f, conditioning), PROMPTS).total.mean()
    expected = 0.5 * f.square().flatten(1).sum(1).mean() - 3.0 * reward
    torch.testing.assert_close(module.training_step(BATCH, 0), expected)


def test_only_the_lora_weights_change_and_have_gradients(make_module, make_data, make_trainer):
    module = make_module(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1.0))
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    buffers = {name: b.detach().clone() for name, b in module.named_buffers()}
    recorder = Recorder()
    make_trainer(callbacks=[recorder], max_steps=3).fit(module, datamodule=make_data())
    changed = {name for name, p in module.named_parameters() if not torch.equal(p, before[name])}
    assert changed
    assert changed <= set(trainable(module))
    assert recorder.without_gradient == before.keys() - trainable(module).keys()
    assert all("lora_" in name for name in trainable(module))
    assert all(torch.equal(b, buffers[name]) for name, b in module.named_buffers())


@pytest.mark.parametrize("network", [LoraHypernet, LoraFinetune])
def test_training_raises_the_reward(make_module, make_data, make_trainer, network):
    module = make_module(
        network(rank=4),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=3e-3),
        reward_weight=100.0,
        noise_type="one",
    )
    data = make_data()
    data.setup("fit")
    prompts = data.datasets["train"].prompts
    noise = TrainingNoise("one")(len(prompts), module.generator, 0, 0)

    @torch.no_grad()
    def reward():
        images, _ = module(noise, module.generator.encode(prompts))
        return float(module.reward(images, prompts).total.mean())

    before = reward()
    make_trainer(max_steps=12).fit(module, datamodule=data)
    assert reward() > before + 1e-3


def test_base_is_the_frozen_generator_before_and_after(make_module, make_data, make_trainer):
    module = make_module(LoraFinetune(rank=2), optimizer=lambda parameters: torch.optim.SGD(parameters, lr=10.0))
    samples, output = module.evaluation_step(BATCH)
    torch.testing.assert_close(output.images, module.base_method()(samples).images)
    before = module.base_method()(samples).images
    make_trainer().fit(module, datamodule=make_data())
    assert torch.equal(module.base_method()(samples).images, before)
    assert not torch.equal(module.trained_method()(samples).images, before)


def test_warm_up_is_linear_and_then_constant(make_module, make_data, make_trainer):
    recorder = Recorder()
    module = make_module(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=8.0), warmup_steps=4)
    make_trainer(callbacks=[recorder], max_steps=6).fit(module, datamodule=make_data())
    assert recorder.learning_rates == [2.0, 4.0, 6.0, 8.0, 8.0, 8.0]


def test_the_learning_rate_falls_to_zero_along_a_cosine(make_module, make_data, make_trainer):
    recorder = Recorder()
    module = make_module(
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=8.0), warmup_steps=2, decay_steps=6
    )
    make_trainer(callbacks=[recorder], max_steps=7).fit(module, datamodule=make_data())
    half = 8 * 0.5**0.5
    assert recorder.learning_rates == pytest.approx([4.0, 8.0, 8.0, 4 + half / 2, 4.0, 4 - half / 2, 0.0])


def test_accumulated_batches_have_noise_of_their_own(make_module, make_data, make_trainer, monkeypatch):
    keys = []

    class Recorded(TrainingNoise):
        def __call__(self, batch_size, generator, *key):
            keys.append(key)
            return super().__call__(batch_size, generator, *key)

    monkeypatch.setattr("hn.training.module.TrainingNoise", Recorded)
    make_trainer(max_steps=3, accumulate_grad_batches=2).fit(make_module(seed=7), datamodule=make_data())
    # (seed, updates done, batch of the update); three batches an epoch, so the second update has one batch
    first, second = BatchSlice(0, 2), BatchSlice(1, 2)
    assert keys == [(7, 0, first), (7, 0, second), (7, 1, first), (7, 2, first), (7, 2, second)]


def test_the_seed_alone_makes_the_weights(make_module):
    states = []
    for global_seed, seed in ((0, 3), (1, 3), (1, 4)):
        torch.manual_seed(global_seed)
        states.append(make_module(seed=seed).hypernet.trainable_state_dict())
        drawn = torch.rand(1)
        torch.manual_seed(global_seed)
        assert torch.equal(drawn, torch.rand(1))  # and does not touch the global state
    name = next(name for name in states[0] if "lora_A" in name)
    assert torch.equal(states[0][name], states[1][name])
    assert not torch.equal(states[1][name], states[2][name])


def test_several_steps_draw_their_noise_from_the_seed(make_module, monkeypatch):
    module = make_module(steps=3)
    scheduler = module.generator.pipe.scheduler  # one that draws noise between steps
    config = {**scheduler.config, "rescale_betas_zero_snr": False}
    monkeypatch.setattr(module.generator.pipe, "scheduler", EulerAncestralDiscreteScheduler.from_config(config))
    torch.manual_seed(0)
    first = module.training_step(BATCH, 0)
    torch.manual_seed(1)
    assert torch.equal(module.training_step(BATCH, 0), first)


def test_checkpoints_hold_the_trainable_weights_alone(make_module, make_data, make_trainer, tmp_path):
    module, trainer = make_module(), make_trainer()
    trainer.fit(module, datamodule=make_data())
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    checkpoint = torch.load(tmp_path / "x.ckpt", weights_only=True)
    assert checkpoint["state_dict"].keys() == module.hypernet.trainable_state_dict().keys()
    numbers = sum(weight.numel() for weight in checkpoint["state_dict"].values())
    assert (tmp_path / "x.ckpt").stat().st_size < 3 * 4 * numbers + 300_000  # weights and two moments, and names
    other = make_module(seed=9)
    other.on_load_checkpoint(checkpoint)
    for name, weight in module.hypernet.trainable_state_dict().items():
        assert torch.equal(weight, other.hypernet.trainable_state_dict()[name])


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda: LoraFinetune(rank=2), "model is hypernetwork there and finetune here"),
        (lambda: LoraHypernet(rank=3), "rank is 2 there and 3 here; alpha is 4 there and 6 here"),
        (lambda: LoraHypernet(rank=2, alpha=10), "alpha is 4 there and 10 here"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(make_module, network, message):
    checkpoint = {}
    make_module().on_save_checkpoint(checkpoint)
    module = make_module(network())
    before = {name: weight.clone() for name, weight in module.hypernet.trainable_state_dict().items()}
    with pytest.raises(ValueError, match=message):
        module.on_load_checkpoint(checkpoint)
    assert all(torch.equal(before[name], weight) for name, weight in module.hypernet.trainable_state_dict().items())


def test_a_checkpoint_is_looked_at_before_weights_are_loaded(make_module):
    checkpoint = {}
    make_module().on_save_checkpoint(checkpoint)
    make_module().check_continued(checkpoint)
    with pytest.raises(ValueError, match="rank is 2 there and 3 here"):
        make_module(LoraHypernet(rank=3)).check_continued(checkpoint)
    state = {"state": {}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99), "params": [0]}]}
    checkpoint |= {"optimizer_states": [state], "lr_schedulers": [{"last_epoch": 1, "base_lrs": [0.1]}]}
    with pytest.raises(ValueError, match="the state of another optimiser"):
        make_module(optimizer=partial(torch.optim.SGD, lr=0.1)).check_continued(checkpoint)


def test_a_checkpoint_of_something_else_is_refused(make_module):
    with pytest.raises(ValueError, match="not written by hn"):
        make_module().on_load_checkpoint({"state_dict": {}})


def test_gradient_checkpointing_is_no_other_model(make_module):
    checkpoint = {}
    make_module().on_save_checkpoint(checkpoint)
    make_module(LoraHypernet(rank=2, gradient_checkpointing=True)).on_load_checkpoint(checkpoint)


@pytest.mark.parametrize("network", [LoraHypernet, LoraFinetune])
def test_saved_weights_are_taken_over_with_their_own_options(make_module, network, tmp_path):
    module = scramble(make_module(network(rank=2, alpha=3)))
    module.hypernet.save_pretrained(tmp_path)
    other = make_module(network(rank=5))
    other.load_trained(tmp_path)
    samples, output = module.evaluation_step(BATCH)
    assert torch.equal(other.trained_method()(samples).images, output.images)
    assert not torch.equal(other.base_method()(samples).images, output.images)


def test_weights_of_the_other_kind_are_refused(make_module, tmp_path):
    make_module().hypernet.save_pretrained(tmp_path / "hypernet")
    make_module(LoraFinetune(rank=2)).hypernet.save_pretrained(tmp_path / "finetune")
    with pytest.raises(ValueError, match="holds a noise hypernetwork, not a fine-tune"):
        make_module(LoraFinetune(rank=2)).load_trained(tmp_path / "hypernet")
    with pytest.raises(FileNotFoundError, match="hypernet_config.json"):
        make_module().load_trained(tmp_path / "finetune")


def test_prompts_with_unknown_words_stop_the_run_before_it_begins(make_module, make_data, make_trainer, tmp_path):
    (tmp_path / "train.txt").write_text("a red ball\na red ball and a cow\na cube\nthe cube\n")
    recorder = Recorder()
    trainer = make_trainer(callbacks=[recorder])
    with pytest.raises(ValueError, match="'cow'"):
        trainer.fit(make_module(), datamodule=make_data(train=str(tmp_path / "train.txt")))
    assert not trainer.is_working
    assert recorder.norms == []


def test_mixed_precision_trains_float32_weights_on_a_bfloat16_generator(make_module, make_data, make_trainer):
    module = make_module(dtype="bfloat16", optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1.0))
    recorder = Recorder()
    make_trainer(precision="bf16-mixed", callbacks=[recorder]).fit(module, datamodule=make_data())
    assert {p.dtype for p in trainable(module).values()} == {torch.float32}
    assert {p.dtype for p in module.generator.backbone.parameters()} == {torch.bfloat16}
    assert all(math.isfinite(norm) and norm > 0 for norm in recorder.norms)


def test_gradients_of_a_fused_optimiser_are_not_clipped_in_float16(make_module, make_data, make_trainer):
    module = make_module(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1.0, fused=True))
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    with pytest.raises(ValueError, match="use --trainer.precision bf16-mixed, or add .*fused=false"):
        make_trainer(plugins=[plugin], gradient_clip_val=1.0).fit(module, datamodule=make_data())


@pytest.mark.parametrize("options", [{"images_per_prompt": 0}, {"warmup_steps": -1}])
def test_numbers_out_of_range_are_refused(make_module, options):
    with pytest.raises(ValueError, match="images_per_prompt must be at least 1 and warmup_steps not negative"):
        make_module(**options)


@pytest.mark.parametrize("network", [LoraHypernet, LoraFinetune])
def test_scoring_in_parts_changes_no_gradient(make_module, network):
    prompts = ["a red cube", "two blue ball", "a photo of the green ball"]

    def gradients(**options):
        module = scramble(make_module(network(rank=2), dtype="float64", steps=2, **options))
        noise = module.generator.sample_noise(3, torch.Generator().manual_seed(0))
        conditioning = module.generator.encode(prompts)
        f = module.hypernet(noise, conditioning)
        scores = module.scores(noise + f, conditioning, prompts, training_streams(3, seed=1, step=0))
        return (
            scores.total.detach(),
            f.detach(),
            torch.autograd.grad(scores.total.mean(), [*trainable(module).values()]),
        )

    torch.testing.assert_close(gradients(score_batch_size=2), gradients(), rtol=1e-9, atol=1e-12)


def test_scoring_in_parts_is_refused_where_it_would_be_something_else(make_module):
    with pytest.raises(ValueError, match="score_batch_size must be at least 1, not 0"):
        make_module(score_batch_size=0)
    module = make_module()
    balanced = RewardEnsemble(dict(module.reward.rewards), module.reward.weights, balance_gradients=True)
    with pytest.raises(ValueError, match="balance_gradients compares gradients of the whole batch"):
        NoiseHypernetModule(module.generator, LoraHypernet(rank=2), balanced, score_batch_size=2)
