import logging
from collections.abc import Callable

import pytest
import torch

from hn.generators import DiffusersGenerator


def test_prompts_are_encoded_once_in_batches(make_generator: Callable[..., DiffusersGenerator]) -> None:
    generator = make_generator(encode_batch_size=2)
    sizes: list[int] = []
    generator.pipe.text_encoder.register_forward_hook(lambda module, args, out: sizes.append(len(out[0])))
    first = generator.encode(["a cube", "a ball", "a cube", "a photo"])
    again = generator.encode(["a photo", "a cube"])
    assert sizes == [2, 1]
    assert list(first) == ["prompt_embeds"] and first["prompt_embeds"].shape == (4, 12, 12)
    assert torch.equal(first["prompt_embeds"][[3, 0]], again["prompt_embeds"])
    assert not first["prompt_embeds"].requires_grad


def test_moving_the_generator_forgets_encoded_prompts(make_generator: Callable[..., DiffusersGenerator]) -> None:
    generator = make_generator()
    generator.encode(["a cube"])
    generator.to(torch.float64)
    assert generator.encode(["a cube"])["prompt_embeds"].dtype == torch.float64


def test_conditioning_of_inference_mode_serves_training(make_generator: Callable[..., DiffusersGenerator]) -> None:
    generator = make_generator()
    with torch.inference_mode():
        generator.generate(generator.sample_noise(1), generator.encode(["a cube"]), steps=2)
    noise = generator.sample_noise(1).requires_grad_(True)
    generator.generate(noise, generator.encode(["a cube"]), steps=2).sum().backward()
    assert noise.grad.abs().sum() > 0


@pytest.mark.parametrize("method", ["encode", "check_prompts"])
def test_strict_vocabulary_refuses_unknown_words(
    make_generator: Callable[..., DiffusersGenerator], method: str
) -> None:
    prompts = ["a red ball", "two cubes"]
    with pytest.raises(ValueError, match=r"outside the generator's vocabulary: 'cubes' \(did you mean 'cube'"):
        getattr(make_generator(strict_vocabulary=True), method)(prompts)
    getattr(make_generator(), method)(prompts)
    make_generator().encode(["two cubes"])  # left to the tokenizer


def test_a_prompt_that_is_cut_is_warned_about_once(
    make_generator: Callable[..., DiffusersGenerator], caplog: pytest.LogCaptureFixture
) -> None:
    generator = make_generator()
    with caplog.at_level(logging.WARNING, logger="hn"):
        generator.encode(["a red cube"])
        assert not caplog.records
        generator.encode(["a red cube " * 4])
        generator.encode(["a red ball " * 5])
    (record,) = [record for record in caplog.records if record.name.startswith("hn.")]
    assert record.getMessage().startswith("A prompt of 14 tokens is cut to the 12")
