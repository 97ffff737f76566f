"""Compact hypernetworks: what both have in common, on every family."""

from pathlib import Path

import pytest
import torch

from hn.generators import PipelineGenerator
from hn.hypernets import Hypernet
from hn.hypernets.conv import ConvHypernet, resampling
from hn.hypernets.subspace import SubspaceHypernet
from tests.tiny_pipelines import CASES

MAKE = {
    "conv": lambda: ConvHypernet(width=8, blocks=2, heads=2, grid=4, text_width=12),
    "subspace": lambda: SubspaceHypernet(
        frequencies=2, width=16, layers=2, queries=3, text_width=12, token_frequencies=2
    ),
}
PROMPTS = ["a red ball left of the cube", "two cube"]


@pytest.fixture(scope="module", params=CASES)
def generator(request: pytest.FixtureRequest) -> PipelineGenerator:
    case = CASES[request.param]
    height, width = case.size
    return PipelineGenerator(case.build(), height=height, width=width, family=case.family)


def trained(name: str, generator: PipelineGenerator) -> Hypernet:
    """A hypernetwork whose last layer is not zero any more."""
    torch.manual_seed(0)
    hypernet = MAKE[name]().build(generator)
    torch.nn.init.normal_(hypernet.out.weight)
    if hypernet.token_shift is not None:
        torch.nn.init.normal_(hypernet.token_shift.table)
    return hypernet


@pytest.mark.parametrize("name", MAKE)
def test_f_is_zero_at_the_start_and_then_reads_noise_and_prompt(
    name: str, generator: PipelineGenerator, tmp_path: Path
) -> None:
    untrained, hypernet = MAKE[name]().build(generator), trained(name, generator)
    conditioning = generator.encode(PROMPTS)
    noise = generator.sample_noise(2, torch.Generator().manual_seed(1))
    assert untrained(noise, conditioning).count_nonzero() == 0

    f = hypernet(noise, conditioning)
    assert f.shape == noise.shape and f.dtype == noise.dtype and f.isfinite().all()
    assert not torch.allclose(f, hypernet(noise.flip(0), conditioning))
    assert not torch.allclose(f, hypernet(noise, {k: v.flip(0) for k, v in conditioning.items()}))

    f.square().sum().backward()
    assert all(parameter.grad is not None for parameter in hypernet.parameters())

    hypernet.save_pretrained(tmp_path)
    loaded = Hypernet.from_pretrained(tmp_path, generator)
    assert type(loaded) is type(hypernet) and loaded.arguments() == hypernet.arguments()
    assert torch.equal(loaded(noise, conditioning), f)


@pytest.mark.parametrize("name", MAKE)
def test_the_size_does_not_depend_on_the_images(name: str) -> None:
    case = CASES["stable_diffusion"]
    shapes = []
    for size in ((32, 48), (64, 64)):
        generator = PipelineGenerator(case.build(), height=size[0], width=size[1], family=case.family)
        hypernet = MAKE[name]().build(generator)
        shapes.append({key: tuple(value.shape) for key, value in hypernet.trainable_state_dict().items()})
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", MAKE)
def test_padding_of_prompts_counts_for_nothing(name: str) -> None:
    case = CASES["sana"]
    generator = PipelineGenerator(case.build(), height=case.size[0], width=case.size[1], family=case.family)
    hypernet = trained(name, generator)
    noise, conditioning = generator.sample_noise(2), generator.encode(PROMPTS)
    mask = conditioning["prompt_attention_mask"].bool()
    assert not mask.all()
    other = dict(conditioning)
    other["prompt_embeds"] = torch.where(mask[..., None], conditioning["prompt_embeds"], 7.0)
    torch.testing.assert_close(hypernet(noise, other), hypernet(noise, conditioning))


def test_resampling_keeps_noise_standard_normal() -> None:
    matrix = resampling(64, 16)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(16, dtype=torch.float64))
    torch.testing.assert_close(resampling(8, 8), torch.eye(8, dtype=torch.float64))


@pytest.mark.parametrize("name", MAKE)
def test_no_backbone_pass_is_counted(name: str) -> None:
    assert MAKE[name]().extra_nfe == 0


def test_checkpointing_gives_the_same_gradients() -> None:
    case = CASES["stable_diffusion"]
    generator = PipelineGenerator(case.build(), height=case.size[0], width=case.size[1], family=case.family)
    plain = trained("conv", generator)
    checkpointed = ConvHypernet(**{**plain.arguments(), "gradient_checkpointing": True}).build(generator)
    checkpointed.load_trainable_state_dict(plain.trainable_state_dict())
    noise, conditioning = generator.sample_noise(2), generator.encode(PROMPTS)
    for hypernet in (plain, checkpointed):
        hypernet(noise, conditioning).square().sum().backward()
    for one, other in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize(
    ("number", "expected"), [(None, [True, True, True]), (2, [False, True, True]), (4, [True, True, True])]
)
def test_the_last_blocks_have_self_attention(number: int | None, expected: list[bool]) -> None:
    case = CASES["stable_diffusion"]
    generator = PipelineGenerator(case.build(), height=case.size[0], width=case.size[1], family=case.family)
    hypernet = ConvHypernet(width=8, heads=2, self_attentions=number).build(generator)
    assert [hasattr(block, "self_attention") for block in hypernet.layers] == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConvHypernet(width=12), "multiple of 8"),
        (lambda: ConvHypernet(width=8, heads=16), "multiple of 8"),
        (lambda: ConvHypernet(grid=0), "grid must be at least 1"),
        (lambda: ConvHypernet(self_attentions=0), "self_attentions must be at least 1"),
        (lambda: SubspaceHypernet(frequencies=0), "frequencies must be at least 1"),
        (lambda: SubspaceHypernet(queries=0), "queries must be at least 1"),
        (lambda: SubspaceHypernet(token_frequencies=-1), "token_frequencies must be 0"),
        (lambda: ConvHypernet(token_rate=0.0), "token_rate above 0"),
    ],
)
def test_options_that_cannot_work_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
