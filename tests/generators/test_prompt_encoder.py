import logging
import pickle
import threading
from collections.abc import Callable

import pytest
import torch

from hn.cli.embed import embed_prompts
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
    assert record.getMessage().startswith("1 of 1 prompts are cut to the 12 tokens that a text encoder takes")


@pytest.mark.parametrize("ask", ["check_prompts", "embed"])
def test_prompts_that_are_cut_are_counted_before_the_work(
    make_generator: Callable[..., DiffusersGenerator], ask: str, tmp_path, caplog: pytest.LogCaptureFixture
) -> None:
    prompts = ["a red cube", "a red cube " * 4, "a red ball " * 5, "a ball"]
    generator = make_generator(cache=str(tmp_path / "cache"))
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="hn"):
        if ask == "embed":
            embed_prompts(generator, prompts, torch.device("cpu"))
        else:
            generator.check_prompts(prompts)
            generator.encode(prompts)
    (record,) = [record for record in caplog.records if record.name.startswith("hn.")]
    expected = (
        "2 of 4 prompts are cut to the 12 tokens that a text encoder takes (CLIPTokenizer); their ends do not count"
    )
    assert record.getMessage().startswith(f"{expected}. The longest has 17: 'a red ball a red")


@pytest.fixture
def written(tiny_pipeline_folder, tmp_path) -> Callable[..., DiffusersGenerator]:
    """The tiny generator on files of six prompts, with the options given."""
    cache = str(tmp_path / "cache")
    embed_prompts(
        DiffusersGenerator.build_on_meta(str(tiny_pipeline_folder), cache=cache), COLORED, torch.device("cpu")
    )
    return lambda **options: DiffusersGenerator(str(tiny_pipeline_folder), cache=cache, **options)


COLORED = [f"a {color} {shape}" for color in ("red", "blue", "green") for shape in ("ball", "cube")]


@pytest.mark.parametrize("prompt_cache_size", [0, 1, 1024])
def test_what_was_read_ahead_is_what_is_in_the_files(written, prompt_cache_size, monkeypatch) -> None:
    plain, ahead = (written(prompt_cache_size=prompt_cache_size) for _ in range(2))
    batches = [COLORED[:2], COLORED[2:4], [COLORED[4], COLORED[0]]]
    for number, batch in enumerate(batches):
        for following in batches[number + 1 : number + 2]:
            ahead.prefetch(following)
        for name, expected in plain.encode(batch).items():
            assert torch.equal(ahead.encode(batch)[name], expected)


def test_conditioning_that_was_read_ahead_is_not_read_again(written) -> None:
    generator = written(prompt_cache_size=0)
    files, readers = generator.conditioning, []
    read = files.read

    def recorded(prompt: str):
        readers.append((prompt, threading.current_thread() is threading.main_thread()))
        return read(prompt)

    files.read = recorded
    generator.prefetch(COLORED[:2])
    generator.prefetch([*COLORED[2:4], "two ball"])  # what is in no file is left to `encode`
    generator.encode(COLORED[:2])
    generator.encode(COLORED[2:4])
    generator.encode(COLORED[4:5])
    assert sorted(readers[:4]) == sorted((prompt, False) for prompt in COLORED[:4])
    assert readers[4:] == [(COLORED[4], True)]
    del files.read
    assert not pickle.loads(pickle.dumps(generator._prompts))._ahead  # no thread goes along


def test_without_files_nothing_is_read_ahead(make_generator: Callable[..., DiffusersGenerator]) -> None:
    generator = make_generator()
    generator.prefetch(COLORED)
    assert not generator._prompts._ahead


def test_what_goes_wrong_ahead_is_raised_where_it_is_needed(written) -> None:
    generator = written(prompt_cache_size=0)

    def damaged(prompt: str):
        raise ValueError("damaged")

    generator.conditioning.read = damaged
    generator.prefetch(COLORED[:1])
    with pytest.raises(ValueError, match="damaged"):
        generator.encode(COLORED[:1])
