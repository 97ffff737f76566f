"""The first stage: an AutoencoderKL that maps 32 x 32 images to 8 x 8 x 8 latents of unit variance."""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from hn.miniature.captions import Caption, sample_caption, training_pools
from hn.miniature.coupling import NOISE_SHAPE, couple
from hn.miniature.recipe.stage import Stage
from hn.miniature.renderer import SceneBatch, render
from hn.miniature.scenes import random_scenes
from hn.miniature.world import TAGS

TAG_WEIGHTS = dict.fromkeys(TAGS, 1.0)


def mixed_scenes(
    batch_size: int, rng: torch.Generator, words: random.Random, pools: dict[str, list[Caption]]
) -> SceneBatch:
    """Half clean random scenes, half scenes of the coupling (blends and half-grown objects included)."""
    half = batch_size // 2
    captions = [sample_caption(words, pools, TAG_WEIGHTS) for _ in range(batch_size - half)]
    coupled = couple(torch.randn(len(captions), *NOISE_SHAPE, generator=rng), captions)
    return SceneBatch.cat([random_scenes(half, rng), coupled])


class AutoencoderStage(Stage):
    """L1 + L2 on pixels, L1 on their differences (edges), a small KL, and noise on the latents for the decoder to bear.

    The noise makes the decoder tolerate the small errors of a one-step generator.
    """

    def __init__(self, steps: int = 2800, batch_size: int = 32, learning_rate: float = 2e-3, seed: int = 1) -> None:
        super().__init__(steps, batch_size, learning_rate, seed)
        self.autoencoder = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(24, 48, 64),
            layers_per_block=1,
            latent_channels=NOISE_SHAPE[0],
            norm_num_groups=8,
            sample_size=32,
            mid_block_add_attention=False,
        )
        self.pools = training_pools()

    def loss(self, rng: torch.Generator, words: random.Random) -> dict[str, Tensor]:
        images = render(mixed_scenes(self.batch_size, rng, words, self.pools)).to(self.device) * 2 - 1
        posterior = self.autoencoder.encode(images).latent_dist
        mean = posterior.mean
        spread = mean.detach().std()
        noise = torch.randn(mean.shape, generator=rng).to(mean)
        strength = 0.15 * torch.rand(len(mean), 1, 1, 1, generator=rng).to(mean)
        decoded = self.autoencoder.decode(mean + noise * strength * spread).sample
        pixel = F.l1_loss(decoded, images) + F.mse_loss(decoded, images)
        edge = sum(F.l1_loss(decoded.diff(dim=d), images.diff(dim=d)) for d in (2, 3))
        kl = posterior.kl().mean() / mean[0].numel()
        psnr = -10 * ((decoded.clamp(-1, 1) - images) / 2).pow(2).mean().log10()
        return {"loss": pixel + edge + 1e-4 * kl, "psnr": psnr.detach(), "kl": kl.detach(), "spread": spread}

    @torch.no_grad()
    def calibrate(self, batches: int = 32) -> AutoencoderKL:
        """The autoencoder, with a `scaling_factor` that gives its latents unit variance over `batches` x 64 scenes."""
        rng, words = torch.Generator().manual_seed(self.seed), random.Random(self.seed)
        scenes = (mixed_scenes(64, rng, words, self.pools) for _ in range(batches))
        means = [self.autoencoder.encode(render(batch) * 2 - 1).latent_dist.mean for batch in scenes]
        self.autoencoder.register_to_config(scaling_factor=1 / torch.cat(means).std().item())
        return self.autoencoder
