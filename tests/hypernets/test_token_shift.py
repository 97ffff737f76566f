"""Shifts of the noise by the prompt's tokens."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from hn.generators import DiffusersGenerator, Generator
from hn.generators.tokens import NO_TOKEN, TOKEN_IDS, token_ids
from hn.hypernets import token_shift
from hn.hypernets.conv import ConvHypernet
from hn.hypernets.token_shift import TokenShift


@pytest.fixture
def generator(tiny_checkpoints: Path) -> DiffusersGenerator:
    return DiffusersGenerator(str(tiny_checkpoints / "pipeline"))


def trained(generator: Generator) -> TokenShift:
    shift = TokenShift(generator, frequencies=2, rate=3.0)
    with torch.no_grad():
        shift.table.normal_()
    return shift


def test_the_shifts_of_the_tokens_add_up(generator: DiffusersGenerator) -> None:
    shift = trained(generator)
    prompts = ["red ball", "ball red", "red", "ball"]
    both, swapped, red, ball = shift(generator.encode(prompts))
    torch.testing.assert_close(both, swapped)
    torch.testing.assert_close(both, red + ball)

    (token,) = generator.pipe.tokenizer("red", add_special_tokens=False).input_ids
    expected = shift.subspace.expand(3.0 * shift.table[token][None])[0]
    torch.testing.assert_close(red, expected)


def test_prompts_that_were_encoded_before_are_refused(generator: DiffusersGenerator) -> None:
    conditioning = generator.encode(["red ball"])
    shift = trained(generator)
    with pytest.raises(ValueError, match="encode prompts once the hypernetwork is bound"):
        shift(conditioning)


def test_tokens_are_those_of_the_prompt_alone(generator: DiffusersGenerator) -> None:
    ids = token_ids(generator.pipe.tokenizer, ["the red ball", ""], 4)
    own = generator.pipe.tokenizer("the red ball", add_special_tokens=False).input_ids
    assert ids.tolist() == [[*own, NO_TOKEN], [NO_TOKEN] * 4]
    assert token_ids(generator.pipe.tokenizer, ["the red ball"], 2).tolist() == [own[:2]]


def test_the_generator_gives_tokens_when_asked_and_its_images_stay(generator: DiffusersGenerator) -> None:
    prompts, noise = ["red ball", "the cube"], generator.sample_noise(2, torch.Generator().manual_seed(0))
    before = generator.encode(prompts)
    assert TOKEN_IDS not in before
    generator.give_token_ids()
    after = generator.encode(prompts)
    assert after.keys() - before.keys() == {TOKEN_IDS}
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert torch.equal(generator.generate(noise, after), generator.generate(noise, before))
    assert torch.equal(generator.encode(prompts[1:])[TOKEN_IDS], after[TOKEN_IDS][1:])


def test_large_vocabularies_share_shifts(generator: DiffusersGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_shift, "BUCKETS", 4)
    shift = trained(generator)
    assert len(shift.table) == 4

    def of(*ids: int) -> Tensor:
        return shift({TOKEN_IDS: torch.tensor([ids])})

    torch.testing.assert_close(of(1, NO_TOKEN), of(5, NO_TOKEN))
    assert of(NO_TOKEN, NO_TOKEN).count_nonzero() == 0


def test_with_adam_a_rate_is_a_learning_rate(generator: DiffusersGenerator) -> None:
    shift = TokenShift(generator, frequencies=2, rate=15.0)
    optimizer = torch.optim.Adam(shift.parameters(), lr=1e-3)
    shift(generator.encode(["red"])).sum().backward()
    optimizer.step()
    (token,) = generator.pipe.tokenizer("red", add_special_tokens=False).input_ids
    moved = 15.0 * shift.table[token].abs().max()
    torch.testing.assert_close(moved.item(), 0.015, rtol=1e-3, atol=0)


def test_a_generator_without_tokenizer_is_refused() -> None:
    class Images(Generator):
        noise_shape, steps = (4, 4, 4), 1

        def encode(self, prompts): ...

        def generate(self, noise, conditioning, steps=None, rng=None): ...

    with pytest.raises(ValueError, match="Images has no tokenizer"):
        TokenShift(Images(), frequencies=2, rate=1.0)


def test_a_hypernetwork_adds_the_shifts(generator: DiffusersGenerator) -> None:
    hypernet = ConvHypernet(width=8, blocks=1, heads=1, text_width=8, token_frequencies=2).build(generator)
    with torch.no_grad():
        hypernet.token_shift.table.normal_()
    noise = generator.sample_noise(1)
    f = hypernet(noise, generator.encode(["red ball"]))
    torch.testing.assert_close(f, hypernet.token_shift(generator.encode(["ball red"])))  # the network's part is zero


def test_a_generator_without_text_encoders_knows_the_same_tokens(generator: DiffusersGenerator) -> None:
    meta = DiffusersGenerator.build_on_meta(generator.name)
    assert meta.pipe.tokenizer is None
    meta.give_token_ids()
    generator.give_token_ids()
    assert meta.token_count == generator.token_count
    assert torch.equal(meta.tokens(["red ball"])[TOKEN_IDS], generator.encode(["red ball"])[TOKEN_IDS])
