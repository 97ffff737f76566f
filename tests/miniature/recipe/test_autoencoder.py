import random

import torch

from hn.miniature.captions import training_pools
from hn.miniature.recipe.autoencoder import AutoencoderStage, mixed_scenes
from hn.miniature.renderer import render


def test_scaled_latents_have_unit_variance() -> None:
    autoencoder = AutoencoderStage().eval().calibrate(batches=4)
    scenes = mixed_scenes(64, torch.Generator().manual_seed(7), random.Random(7), training_pools())
    with torch.no_grad():
        latents = autoencoder.encode(render(scenes) * 2 - 1).latent_dist.mean * autoencoder.config.scaling_factor
    assert latents.shape == (64, 8, 8, 8)
    assert 0.9 < latents.std() < 1.1


def test_loss_has_gradients_everywhere_and_falls_for_a_better_picture() -> None:
    stage = AutoencoderStage(batch_size=4)
    terms = stage.loss(torch.Generator().manual_seed(0), random.Random(0))
    terms["loss"].backward()
    assert [name for name, parameter in stage.named_parameters() if parameter.grad is None] == []
    optimizer = torch.optim.SGD(stage.parameters(), 0.01)
    optimizer.step()
    assert stage.loss(torch.Generator().manual_seed(0), random.Random(0))["loss"] < terms["loss"]
