import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hn.generators import Conditioning, DiffusersGenerator
from hn.hypernets import Hypernet, LoraHypernet
from hn.objective import noise_hypernetwork_loss
from hn.rewards import RednessReward
from tests.exactness import stock_images

PROMPTS = ["a red cube", "two blue ball"]


def perturb(hypernet: nn.Module, scale: float = 0.02) -> None:
    """Give every LoRA's B, zero so far, some value."""
    rng = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, tensor in hypernet.named_parameters():
            if "lora_B" in name:
                tensor.copy_(scale * torch.randn(tensor.shape, generator=rng, dtype=tensor.dtype))


def loss_of(hypernet: LoraHypernet, noise: Tensor, conditioning: Conditioning) -> Tensor:
    f = hypernet(noise, conditioning)
    images = hypernet.generator.generate(noise + f, conditioning)
    return noise_hypernetwork_loss(RednessReward()(images, PROMPTS), f, reward_weight=5.0).loss


@pytest.fixture
def conditioning(generator: DiffusersGenerator) -> Conditioning:
    return generator.encode(PROMPTS)


@pytest.fixture
def noise(generator: DiffusersGenerator) -> Tensor:
    return generator.sample_noise(2)


@pytest.fixture
def hypernet(generator: DiffusersGenerator) -> LoraHypernet:
    return LoraHypernet(rank=4).build(generator)


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.exact
def test_an_untrained_hypernetwork_gives_the_stock_images_exactly(
    hypernet: LoraHypernet,
    generator: DiffusersGenerator,
    stock_pipeline: StableDiffusionPipeline,
    noise: Tensor,
    conditioning: Conditioning,
    steps: int,
) -> None:
    assert (hypernet(noise, conditioning) == 0).all()
    modulated = hypernet.modulate(noise, conditioning)
    options = {"num_inference_steps": steps, "guidance_scale": 0.0}
    stock = stock_images(stock_pipeline, PROMPTS, latents=noise, **options)
    assert (generator.generate(modulated, conditioning, steps) - stock).abs().max() == 0
    # And outside this package: modulated noise is the `latents` of a stock pipeline.
    perturb(hypernet, 0.2)
    modulated = hypernet.modulate(noise, conditioning).detach()
    moved = stock_images(stock_pipeline, latents=modulated, **conditioning, **options)
    assert (generator.generate(modulated, conditioning, steps) - moved).abs().max() == 0
    assert (moved - stock).abs().max() > 0


def test_only_the_lora_branch_of_the_last_layer_remains(
    hypernet: LoraHypernet, generator: DiffusersGenerator, noise: Tensor, conditioning: Conditioning
) -> None:
    """The last layer's output is scale * B A x, computed here by hand from its input."""
    perturb(hypernet)
    inputs: list[Tensor] = []
    branch = hypernet.backbone.conv_out
    hook = branch.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    f = hypernet(noise, conditioning)
    hook.remove()
    a, b = branch.lora_A["default"].weight, branch.lora_B["default"].weight
    expected = 2 * nn.functional.conv2d(nn.functional.conv2d(inputs[0], a, padding=1), b)
    torch.testing.assert_close(f, expected)


def test_the_default_alpha_is_twice_the_rank(hypernet: LoraHypernet) -> None:
    assert hypernet.alpha == 8
    scales = {layer.scaling["default"] for layer in hypernet.modules() if isinstance(layer, LoraLayer)}
    assert scales == {2.0} and hypernet.backbone.conv_out.scale == 2.0


def test_every_linear_and_convolution_of_the_backbone_has_lora(
    hypernet: LoraHypernet, generator: DiffusersGenerator
) -> None:
    layers = {n for n, m in generator.backbone.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    state = hypernet.trainable_state_dict()
    assert len(layers) > 50
    assert set(state) == {f"backbone.{name}.lora_{ab}.default.weight" for name in layers for ab in "AB"}


def test_weights_are_shared_and_the_generator_is_untouched(
    make_generator: Callable[..., DiffusersGenerator], noise: Tensor
) -> None:
    generator = make_generator()
    conditioning = generator.encode(PROMPTS)
    keys, images = list(generator.state_dict()), generator.generate(noise, conditioning)
    values = {name: tensor.clone() for name, tensor in generator.state_dict().items()}

    hypernet = LoraHypernet(rank=4).build(generator)
    perturb(hypernet)
    optimizer = torch.optim.SGD([p for p in hypernet.parameters() if p.requires_grad], lr=0.1)
    before = {name: tensor.clone() for name, tensor in hypernet.trainable_state_dict().items()}
    loss_of(hypernet, noise, conditioning).backward()
    optimizer.step()

    own = {id(p) for p in generator.backbone.parameters()}
    frozen = [p for p in hypernet.backbone.parameters() if not p.requires_grad]
    assert frozen and all(id(p) in own for p in frozen)
    assert all(p.grad is None for p in generator.parameters())
    assert not any(isinstance(module, LoraLayer) for module in generator.modules())
    assert list(generator.state_dict()) == keys
    assert all(torch.equal(tensor, values[name]) for name, tensor in generator.state_dict().items())
    assert torch.equal(generator.generate(noise, conditioning), images)
    assert all(not torch.equal(t, before[name]) for name, t in hypernet.trainable_state_dict().items())


def test_gradient_of_the_loss_equals_finite_differences(make_generator: Callable[..., DiffusersGenerator]) -> None:
    generator = make_generator(dtype="float64")
    hypernet = LoraHypernet(rank=2).build(generator)
    perturb(hypernet)
    noise, conditioning = generator.sample_noise(2), generator.encode(PROMPTS)
    parameters = [p for p in hypernet.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss_of(hypernet, noise, conditioning), parameters)
    directions = [torch.randn_like(p) for p in parameters]
    h, losses = 1e-6, []
    with torch.no_grad():
        for sign in (1, -1):
            for p, direction in zip(parameters, directions, strict=True):
                p.add_(sign * h * direction)
            losses.append(loss_of(hypernet, noise, conditioning))
            for p, direction in zip(parameters, directions, strict=True):
                p.sub_(sign * h * direction)
    analytic = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
    assert analytic.abs() > 1e-4
    assert (analytic - (losses[0] - losses[1]) / (2 * h)).abs() / analytic.abs() < 1e-4


@pytest.mark.parametrize("checkpointed_generator", [False, True])
def test_checkpointed_gradients_equal_plain_ones(
    make_generator: Callable[..., DiffusersGenerator], noise: Tensor, checkpointed_generator: bool
) -> None:
    gradients, calls = [], []
    for checkpointed in (False, True):
        generator = make_generator(gradient_checkpointing=checkpointed and checkpointed_generator)
        torch.manual_seed(1)
        hypernet = LoraHypernet(rank=4, gradient_checkpointing=checkpointed).build(generator).train()
        perturb(hypernet)
        count: list[int] = []
        hypernet.backbone.down_blocks[0].resnets[0].register_forward_pre_hook(lambda *_, count=count: count.append(1))
        loss_of(hypernet, noise, generator.encode(PROMPTS)).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in hypernet.parameters() if p.requires_grad]))
        calls.append(len(count))
    assert calls == [1, 2]  # it does recompute
    assert (gradients[1] - gradients[0]).norm() <= 1e-6 * gradients[0].norm()


def test_checkpointing_is_each_backbones_own_choice(make_generator: Callable[..., DiffusersGenerator]) -> None:
    generator = make_generator(gradient_checkpointing=True)
    plain = LoraHypernet(rank=4).build(generator)
    assert generator.backbone.is_gradient_checkpointing and not plain.backbone.is_gradient_checkpointing
    generator = make_generator()
    checkpointed = LoraHypernet(rank=4, gradient_checkpointing=True).build(generator)
    assert checkpointed.backbone.is_gradient_checkpointing and not generator.backbone.is_gradient_checkpointing


def test_the_backbone_stays_in_eval_mode(hypernet: LoraHypernet) -> None:
    assert hypernet.train().training
    assert not any(module.training for module in hypernet.backbone.modules())


def test_half_precision_backbones_get_full_precision_lora(make_generator: Callable[..., DiffusersGenerator]) -> None:
    generator = make_generator(dtype="bfloat16")
    hypernet = LoraHypernet(rank=4).build(generator)
    perturb(hypernet)
    f = hypernet(generator.sample_noise(2), generator.encode(PROMPTS))
    assert f.dtype == torch.float32 and f.isfinite().all() and f.abs().max() > 0
    assert {tensor.dtype for tensor in hypernet.trainable_state_dict().values()} == {torch.float32}


@pytest.fixture
def saved(hypernet: LoraHypernet, tmp_path: Path) -> Path:
    perturb(hypernet)
    hypernet.save_pretrained(tmp_path)
    return tmp_path


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.exact
def test_a_saved_hypernetwork_comes_back_exactly(
    hypernet: LoraHypernet, saved: Path, generator: DiffusersGenerator, noise: Tensor, conditioning: Conditioning
) -> None:
    assert {path.name for path in saved.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "hypernet_config.json",
        "README.md",
    }
    for cls in (LoraHypernet, Hypernet):
        loaded = cls.from_pretrained(saved, generator)
        state, own = loaded.trainable_state_dict(), hypernet.trainable_state_dict()
        assert state.keys() == own.keys() and all(torch.equal(state[name], own[name]) for name in own)
        assert torch.equal(loaded(noise, conditioning), hypernet(noise, conditioning))


def test_base_model_revision_and_alpha_are_saved(saved: Path, generator: DiffusersGenerator) -> None:
    config = json.loads((saved / "hypernet_config.json").read_text())
    adapter = json.loads((saved / "adapter_config.json").read_text())
    assert config["generator"]["name"] == adapter["base_model_name_or_path"] == generator.name
    assert config["generator"]["revision"] == adapter["revision"] == generator.revision
    assert config["arguments"]["alpha"] == adapter["lora_alpha"] == 8


def test_options_are_saved_too(generator: DiffusersGenerator, tmp_path: Path) -> None:
    options = {"rank": 2, "alpha": 10, "target_modules": ["conv_out", "to_q"], "gradient_checkpointing": True}
    LoraHypernet(**options).build(generator).save_pretrained(tmp_path)
    assert LoraHypernet.from_pretrained(tmp_path, generator).arguments() == {**options, "last_layer": "conv_out"}


def test_the_last_layer_rule_is_saved(saved: Path) -> None:
    config = json.loads((saved / "hypernet_config.json").read_text())
    assert config["last_layer_rule"] == "lora_branch_only"
    assert config["arguments"]["last_layer"] == "conv_out"
    assert (
        "The rule is `lora_branch_only`: in `conv_out` the base output is dropped" in (saved / "README.md").read_text()
    )


@pytest.mark.parametrize("rule", ["zero_conv", None])
def test_an_unknown_last_layer_rule_is_refused(saved: Path, generator: DiffusersGenerator, rule: str | None) -> None:
    edit(saved / "hypernet_config.json", last_layer_rule=rule)
    with pytest.raises(ValueError, match=f"last-layer rule {rule!r}; this version knows 'lora_branch_only'"):
        LoraHypernet.from_pretrained(saved, generator)


def test_a_bare_adapter_is_refused(saved: Path, generator: DiffusersGenerator) -> None:
    (saved / "hypernet_config.json").unlink()
    with pytest.raises(FileNotFoundError, match="has no hypernet_config.json"):
        LoraHypernet.from_pretrained(saved, generator)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: [state.pop(f"base_model.model.conv_out.lora_{ab}.weight") for ab in "AB"],
            r"2 missing \(backbone.conv_out.lora_A",
        ),
        (
            lambda state: state.update({f"base_model.model.extra.lora_{ab}.weight": torch.zeros(4, 4) for ab in "AB"}),
            "is for another model: of its 84 layers 83 is .*; unknown are extra",
        ),
        (
            lambda state: state.update({"base_model.model.conv_out.lora_B.weight": torch.zeros(1, 4)}),
            r"1 of another shape \(backbone.conv_out.lora_B",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    saved: Path, generator: DiffusersGenerator, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    path = saved / "adapter_model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path)
    with pytest.raises(ValueError, match=message):
        LoraHypernet.from_pretrained(saved, generator)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"last_layer": "proj_out"}, "UNet2DConditionModel has no layer 'proj_out'"),
        ({"last_layer": "conv_norm_out"}, "got no LoRA, so f would not start at 0"),
        ({"target_modules": ["to_q"]}, "'conv_out' of UNet2DConditionModel got no LoRA"),
        ({"rank": 0}, "rank must be at least 1"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    generator: DiffusersGenerator, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        LoraHypernet(**{"rank": 4, **options}).build(generator)


def test_use_before_build_is_refused(noise: Tensor, conditioning: Conditioning) -> None:
    with pytest.raises(RuntimeError, match=r"call build\(generator\) first"):
        LoraHypernet(rank=4)(noise, conditioning)
