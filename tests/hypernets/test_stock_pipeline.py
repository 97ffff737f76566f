"""What a user of diffusers writes: a stock pipeline, a saved hypernetwork, and the pipeline called with its latents."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from hn.evaluation.samples import Samples
from hn.generators import DiffusersGenerator
from hn.hypernets import Hypernet, LoraHypernet
from tests.exactness import assert_close_to_rounding, frozen
from tests.tiny_pipelines import CASES

PROMPTS = ["a red cube", "two blue ball left of the green cube"]


@pytest.fixture(params=["stable_diffusion", "stable_diffusion_xl", "sana", "flux"])
def case(request: pytest.FixtureRequest):
    return CASES[request.param]


@pytest.fixture
def pipe(case) -> DiffusionPipeline:
    """As a user has it: the weights take gradients."""
    pipe = case.build()
    for network in networks(pipe).values():
        network.eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def folder(pipe: DiffusionPipeline, case, tmp_path: Path) -> Path:
    """A hypernetwork trained on the pipeline's weights, as it were."""
    hypernet = LoraHypernet(rank=2).build(attach(pipe, case))
    with torch.no_grad():
        for name, parameter in hypernet.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    hypernet.save_pretrained(tmp_path)
    return tmp_path


def attach(pipe: DiffusionPipeline, case) -> DiffusersGenerator:
    return DiffusersGenerator.from_pipeline(pipe, height=case.size[0], width=case.size[1], family=case.family)


def networks(pipe: DiffusionPipeline) -> dict[str, nn.Module]:
    return {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}


def call(pipe: DiffusionPipeline, case, latents: Tensor, steps: int = 1, **options: Any) -> Tensor:
    height, width = case.size
    arguments = {"prompt": list(PROMPTS), **case.call, **case.calls_by_steps.get(steps, {}), **options}
    return pipe(
        latents=latents, num_inference_steps=steps, height=height, width=width, output_type="pt",
        generator=torch.Generator().manual_seed(7), **arguments,
    ).images  # fmt: skip


def state(pipe: DiffusionPipeline) -> dict[str, Any]:
    """All that can be told from outside: attributes, configuration, scheduler and every module, parameter and hook."""
    found: dict[str, Any] = {
        "attributes": {name: id(value) for name, value in vars(pipe).items()},
        "config": copy.deepcopy(dict(pipe.config)),
        "progress bar": dict(pipe._progress_bar_config),
        "scheduler": {name: repr(value) for name, value in vars(pipe.scheduler).items()},
    }
    for part, network in networks(pipe).items():
        for name, module in network.named_modules():
            hooks = {kind: list(value) for kind, value in vars(module).items() if kind.endswith("hooks")}
            others = {kind: id(value) for kind, value in vars(module).items() if not isinstance(value, Tensor)}
            found[f"{part}.{name}"] = (id(module), module.training, hooks, others)
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            found[f"{part}.{name}"] = (id(tensor), tensor.requires_grad, tensor.grad, tensor._version)
    return found


@pytest.mark.exact
def test_three_lines_and_the_pipeline_stays_as_it_was(pipe: DiffusionPipeline, folder: Path, case) -> None:
    plain = attach(pipe, case).sample_noise(2)
    before_images = call(pipe, case, plain)
    weights = {f"{part}.{n}": t.clone() for part, net in networks(pipe).items() for n, t in net.state_dict().items()}
    before = state(pipe)

    hypernet = Hypernet.from_pretrained(folder, attach(pipe, case))
    latents = hypernet.latents(PROMPTS, seed=3)

    assert state(pipe) == before
    for part, network in networks(pipe).items():
        assert all(torch.equal(tensor, weights[f"{part}.{name}"]) for name, tensor in network.state_dict().items())
    assert torch.equal(call(pipe, case, plain), before_images)

    generator = hypernet.generator
    images = call(pipe, case, latents)
    own = generator.generate(latents, generator.encode(PROMPTS), 1, torch.Generator().manual_seed(7))
    assert_close_to_rounding(images, own)
    with frozen(*networks(pipe).values()):
        assert torch.equal(call(pipe, case, latents), own)
    noise, _ = modulation(hypernet)
    assert (images - call(pipe, case, noise)).abs().max() > 1e-4


def modulation(hypernet: Hypernet) -> tuple[Tensor, Tensor]:
    """Noise and modulated noise of the prompts at seed 3, step by step."""
    generator = hypernet.generator
    noise = torch.cat([Samples.of_prompts(generator, [prompt], 1, seed=3).noise for prompt in PROMPTS])
    with torch.no_grad():
        return noise, hypernet.modulate(noise, generator.encode(PROMPTS))


def test_latents_are_the_modulated_noise_of_seed_and_number(pipe: DiffusionPipeline, folder: Path, case) -> None:
    hypernet = Hypernet.from_pretrained(folder, attach(pipe, case))
    noise, modulated = modulation(hypernet)
    assert torch.equal(noise[0], noise[1])  # the prompt does not count
    assert (modulated - noise).abs().max() > 1e-3
    latents = hypernet.latents(PROMPTS, seed=3)
    assert not latents.requires_grad
    torch.testing.assert_close(latents, modulated, atol=1e-6, rtol=0)
    several = hypernet.latents(PROMPTS, seed=3, images_per_prompt=2)
    torch.testing.assert_close(several[[0, 2]], latents, atol=1e-6, rtol=0)
    assert (several[1] - several[0]).abs().max() > 0.1
    assert (hypernet.latents(PROMPTS, seed=4) - latents).abs().max() > 0.1
    torch.testing.assert_close(hypernet.latents(PROMPTS[0], seed=3), latents[:1], atol=1e-6, rtol=0)


@pytest.mark.exact
def test_the_embeddings_spare_the_pipeline_its_text_encoders(pipe: DiffusionPipeline, folder: Path, case) -> None:
    hypernet = Hypernet.from_pretrained(folder, attach(pipe, case))
    latents, embeddings = hypernet.latents(PROMPTS), hypernet.generator.encode(PROMPTS)
    calls = []
    with frozen(*networks(pipe).values()):
        expected = call(pipe, case, latents)
        pipe.text_encoder.register_forward_hook(lambda *_: calls.append(1))
        assert torch.equal(call(pipe, case, latents, prompt=None, **embeddings), expected)
    assert not calls


def test_half_precision_latents_are_what_the_pipeline_takes(pipe: DiffusionPipeline, folder: Path, case) -> None:
    pipe.to(torch.bfloat16)
    hypernet = Hypernet.from_pretrained(folder, attach(pipe, case))
    latents = hypernet.latents(PROMPTS)
    assert call(pipe, case, latents).isfinite().all()
    expected = torch.float32 if hypernet.generator.family.latents_dtype is torch.float32 else torch.bfloat16
    assert latents.dtype == expected


def test_the_generator_can_be_moved_and_altered_by_itself(pipe: DiffusionPipeline, case) -> None:
    pipe.vae.train()
    before = state(pipe)
    generator = attach(pipe, case)
    assert not any(module.training or p.requires_grad for module in generator.modules() for p in module.parameters())
    generator.enable_gradient_checkpointing()
    generator.backbone.register_forward_hook(lambda *_: None)
    generator.to(torch.float64)
    assert state(pipe) == before
    assert {p.dtype for p in networks(pipe)["vae"].parameters()} == {torch.float32}


def test_weights_are_in_memory_once(pipe: DiffusionPipeline, folder: Path, case) -> None:
    hypernet = Hypernet.from_pretrained(folder, attach(pipe, case))
    given = {p.data_ptr() for network in networks(pipe).values() for p in network.parameters()}
    frozen = [p for p in hypernet.backbone.parameters() if not p.requires_grad]
    assert frozen and {p.data_ptr() for p in frozen} <= given
    assert {p.data_ptr() for p in hypernet.generator.parameters()} == given


def test_no_prompts_or_images_are_refused(pipe: DiffusionPipeline, folder: Path, case) -> None:
    hypernet = Hypernet.from_pretrained(folder, attach(pipe, case))
    with pytest.raises(ValueError, match="one or more prompts"):
        hypernet.latents([])
    with pytest.raises(ValueError, match="images_per_prompt must be at least 1, not 0"):
        hypernet.latents(PROMPTS, images_per_prompt=0)
