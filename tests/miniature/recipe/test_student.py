import random
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from hn.generators.pipeline import DiffusersGenerator
from hn.miniature.coupling import NOISE_SHAPE
from hn.miniature.recipe.autoencoder import AutoencoderStage
from hn.miniature.recipe.student import StudentStage, build_scheduler, load_pairs, make_pairs
from hn.miniature.recipe.tokenizer import build_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def autoencoder() -> AutoencoderKL:
    return AutoencoderStage().autoencoder.eval()


@pytest.fixture(scope="module")
def pairs(autoencoder, tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    make_pairs(autoencoder, tokenizer, folder, shards=2, shard_size=6)
    return folder


@pytest.mark.parametrize(("steps", "visited"), [(1, [999]), (2, [999, 499]), (4, [999, 749, 499, 249])])
def test_sampling_visits_the_timesteps_that_are_trained(steps: int, visited: list[int]) -> None:
    scheduler = build_scheduler()
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == visited


def test_at_the_last_timestep_there_is_nothing_but_noise_and_the_target_is_minus_the_latents() -> None:
    scheduler = build_scheduler()
    noise, latents, last = torch.randn(2, *NOISE_SHAPE), torch.randn(2, *NOISE_SHAPE), torch.tensor([999, 999])
    assert torch.equal(scheduler.add_noise(latents, noise, last), noise)
    assert torch.equal(scheduler.get_velocity(latents, noise, last), -latents)
    scheduler.set_timesteps(1)
    torch.testing.assert_close(scheduler.step(-latents, 999, noise).prev_sample, latents)


def test_pairs_are_stored_small_and_shards_differ(pairs: Path, tokenizer) -> None:
    first, second = (load_file(pairs / f"pairs-00{index}.safetensors") for index in range(2))
    for shard in (first, second):
        assert {name: (value.dtype, tuple(value.shape)) for name, value in shard.items()} == {
            "noise": (torch.float16, (6, *NOISE_SHAPE)),
            "latents": (torch.float16, (6, *NOISE_SHAPE)),
            "tokens": (torch.uint8, (6, tokenizer.model_max_length)),
        }
    assert not torch.equal(first["noise"], second["noise"])
    together = load_pairs(pairs, tokenizer)
    assert torch.equal(together["latents"], torch.cat([first["latents"], second["latents"]]))
    assert not list(pairs.glob("*.partial"))


def test_existing_shards_are_kept_and_missing_ones_made_as_before(pairs, autoencoder, tokenizer, tmp_path) -> None:
    second = (pairs / "pairs-001.safetensors").read_bytes()
    (tmp_path / "pairs-001.safetensors").write_bytes(second)
    make_pairs(autoencoder, tokenizer, tmp_path, shards=2, shard_size=6)
    assert (tmp_path / "pairs-001.safetensors").read_bytes() == second
    made, before = (load_file(folder / "pairs-000.safetensors") for folder in (tmp_path, pairs))
    assert all(torch.equal(made[name], before[name]) for name in before)


def test_tokens_of_another_vocabulary_are_refused(autoencoder, tokenizer, tmp_path: Path) -> None:
    shard = {"noise": torch.zeros(1), "latents": torch.zeros(1), "tokens": torch.zeros(1)}
    save_file(shard, tmp_path / "pairs-000.safetensors", metadata={"vocabulary": "another"})
    for use in (
        lambda: load_pairs(tmp_path, tokenizer),
        lambda: make_pairs(autoencoder, tokenizer, tmp_path, shards=1, shard_size=2),
    ):
        with pytest.raises(ValueError, match="tokens of another vocabulary.*delete that folder"):
            use()


def test_no_pairs_names_the_remedy(tokenizer, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no pairs in .* run the recipe's stage"):
        load_pairs(tmp_path, tokenizer)


def test_training_sees_both_kinds_of_timesteps_and_has_gradients_everywhere(pairs: Path, tokenizer) -> None:
    stage = StudentStage(tokenizer, pairs, batch_size=12)
    terms = stage.loss(torch.Generator().manual_seed(0), random.Random(0))
    assert all(torch.isfinite(terms[name]) for name in ("loss", "one_step_mse", "later_mse"))
    terms["loss"].backward()
    without = [name for name, parameter in stage.named_parameters() if parameter.grad is None]
    assert without == []


@pytest.mark.parametrize(("steps", "step"), [(2, 1), (4, 1)])
def test_later_steps_are_trained_where_the_first_one_leads_and_towards_the_pair(pairs, tokenizer, steps, step) -> None:
    stage, scheduler = StudentStage(tokenizer, pairs).eval(), build_scheduler()
    noise, latents, embeds = torch.randn(2, *NOISE_SHAPE), torch.randn(2, *NOISE_SHAPE), torch.randn(2, 16, 96)
    scheduler.set_timesteps(steps)
    timestep = scheduler.timesteps[step]
    with torch.no_grad():
        predicted = stage.unet(noise, torch.tensor([999, 999]), embeds).sample
        led = scheduler.step(predicted, 999, noise).prev_sample
        seen = stage.revisit(noise, timestep.expand(2), torch.tensor([False, False]), embeds)
    torch.testing.assert_close(seen, led)
    assert torch.equal(stage.revisit(noise, timestep.expand(2), torch.tensor([True, True]), embeds), noise)
    clean, noisiness = stage.signal_and_noise(timestep.expand(2))
    target = (clean * seen - latents) / noisiness
    torch.testing.assert_close(scheduler.step(target, timestep, seen).pred_original_sample, latents)


def test_the_pipeline_is_a_one_step_generator_of_the_stage(pairs: Path, tokenizer, autoencoder) -> None:
    stage = StudentStage(tokenizer, pairs).eval()
    generator = DiffusersGenerator.from_pipeline(stage.pipeline(tokenizer, autoencoder))
    prompts, noise = ["a photo of a ring", "three crosses"], torch.randn(2, *generator.noise_shape)
    tokens = tokenizer(prompts, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        embeds = stage.text_encoder(input_ids=tokens).last_hidden_state
        predicted = stage.unet(noise, torch.tensor([999, 999]), embeds).sample
        latents = generator.denoise(noise, generator.encode(prompts))
    assert generator.noise_shape == NOISE_SHAPE
    torch.testing.assert_close(latents, -predicted, atol=1e-5, rtol=1e-5)
