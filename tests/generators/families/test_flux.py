import torch
from safetensors.torch import load_file

from tests import published
from tests.published import FIXTURES

TOLERANCE = {"atol": 1e-5, "rtol": 0}


def test_noise_is_packed(flux) -> None:
    assert flux.generator.noise_shape == tuple(flux["latents"].shape[1:]) == (16, 16)
    assert (flux.config["height"], flux.config["width"]) == (flux.generator.height, flux.generator.width)


def test_packed_latents_are_decoded_as_the_published_unpacking_has_them(flux) -> None:
    packing = load_file(FIXTURES / "flux" / "packing.safetensors")
    config = flux.generator.pipe.vae.config
    scaled = packing["unpacked"] / config.scaling_factor + config.shift_factor
    images = flux.generator.pipe.vae.decode(scaled, return_dict=False)[0]
    decoded = flux.generator.decode(packing["packed"])
    torch.testing.assert_close(decoded, (images / 2 + 0.5).clamp(0, 1), **TOLERANCE)
    assert decoded.std() > 0.01


def test_a_token_is_a_patch_of_two_by_two_of_a_wide_image() -> None:
    generator = published.flux(height=32, width=48)
    assert generator.noise_shape == (4 * 6, 16)
    tokens, config = generator.sample_noise(2), generator.pipe.vae.config
    patches = tokens.unflatten(1, (4, 6)).unflatten(3, (4, 2, 2))  # sample, row, column, channel, 2, 2
    latents = patches.permute(0, 3, 1, 4, 2, 5).reshape(2, 4, 8, 12)
    images = generator.pipe.vae.decode(latents / config.scaling_factor + config.shift_factor, return_dict=False)[0]
    assert torch.equal(generator.decode(tokens), (images / 2 + 0.5).clamp(0, 1))


def test_the_base_image_is_the_published_one(flux) -> None:
    image = flux.generator.generate(flux["latents"], flux.conditioning)
    torch.testing.assert_close(image, flux["image_1step_base"], **TOLERANCE)


def test_f_and_modulated_noise_are_the_published_ones(flux) -> None:
    hypernet, noise = flux.hypernet(), flux["latents"]
    torch.testing.assert_close(hypernet(noise, flux.conditioning), flux["pred_latents"], **TOLERANCE)
    torch.testing.assert_close(hypernet.modulate(noise, flux.conditioning), flux["modulated_latents"], **TOLERANCE)


def test_latents_and_image_of_modulated_noise_are_the_published_ones(flux) -> None:
    modulated = flux.hypernet().modulate(flux["latents"], flux.conditioning)
    latents = flux.generator.denoise(modulated, flux.conditioning)
    torch.testing.assert_close(latents, flux["final_latents_1step"], **TOLERANCE)
    torch.testing.assert_close(flux.generator.decode(latents), flux["image_1step"], **TOLERANCE)


def test_the_first_step_is_told_positions_and_time_as_published(flux) -> None:
    calls, backbone = [], flux.generator.backbone
    hook = backbone.register_forward_pre_hook(lambda _, args, kwargs: calls.append(kwargs), with_kwargs=True)
    flux.generator.first_step(backbone, flux["latents"], flux.conditioning)
    hook.remove()
    assert torch.equal(calls[0]["timestep"], torch.ones(3)) and calls[0]["guidance"] is None
    assert torch.equal(calls[0]["img_ids"], flux["img_ids"])
    assert torch.equal(calls[0]["txt_ids"], flux["txt_ids"])
