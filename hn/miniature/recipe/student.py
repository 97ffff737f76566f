"""The one-step generator and its text encoder, distilled from the procedural coupling.

Pairs (noise, caption, latents of the coupling's scene) stand where a teacher's samples stand in other distillations.
The UNet predicts v under a zero-terminal-SNR schedule, so that v = -x0 at the last timestep and one DDIM step is the
generator. The timesteps that 2 and 4 trailing steps visit are trained where the student's own first step leads, so that
later steps mend what it got wrong.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from hn.miniature.captions import sample_caption, training_pools
from hn.miniature.coupling import NOISE_SHAPE, couple
from hn.miniature.recipe.stage import Stage
from hn.miniature.recipe.tokenizer import fingerprint
from hn.miniature.renderer import render
from hn.utils.files import atomic_write

TAG_WEIGHTS = {"single_object": 1, "two_object": 4, "counting": 4, "colors": 3, "position": 4, "color_attr": 6}
SHARD = 16_384


def build_scheduler() -> DDIMScheduler:
    """SD-Turbo's way of sampling: trailing timesteps that start at pure noise (arXiv 2305.08891)."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,  # no effect on trailing timesteps; the pipeline asks for it
    )


@torch.no_grad()
def make_pairs(
    autoencoder: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    folder: Path,
    shards: int,
    shard_size: int = SHARD,
    seed: int = 5,
) -> None:
    """Write shards of N = `shard_size` pairs: noise and latents [N, 8, 8, 8] float16, tokens [N, 16] uint8.

    Shards that are there are kept.

    Raises:
        ValueError: they hold tokens of another vocabulary.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pools = training_pools()
    for shard in tqdm(range(shards), desc="pairs", unit="shard"):
        path = folder / f"pairs-{shard:03d}.safetensors"
        if path.exists():
            _require_vocabulary(path, tokenizer)
            continue
        rng, words = torch.Generator().manual_seed(seed * 1000 + shard), random.Random(seed * 1000 + shard)
        noise = torch.randn(shard_size, *NOISE_SHAPE, generator=rng).half()
        captions = [sample_caption(words, pools, TAG_WEIGHTS) for _ in range(shard_size)]
        texts = [caption.paraphrase(words) for caption in captions]
        scenes = couple(noise.float(), captions)
        latents = []
        for start in range(0, shard_size, 128):
            images = render(scenes[start : start + 128]).to(autoencoder.device) * 2 - 1
            mean = autoencoder.encode(images).latent_dist.mean
            latents.append((mean * autoencoder.config.scaling_factor).half().cpu())
        tokens = tokenizer(texts, padding="max_length", return_tensors="pt").input_ids.to(torch.uint8)
        pairs = {"noise": noise, "latents": torch.cat(latents), "tokens": tokens}
        with atomic_write(path) as temporary:
            save_file(pairs, temporary, metadata={"vocabulary": fingerprint(tokenizer)})


def load_pairs(folder: Path, tokenizer: CLIPTokenizer) -> dict[str, Tensor]:
    """All pairs of a folder in memory.

    Raises:
        FileNotFoundError: there are none.
        ValueError: they hold tokens of another vocabulary.
    """
    paths = sorted(folder.glob("pairs-*.safetensors"))
    if not paths:
        raise FileNotFoundError(f"no pairs in {folder}: run the recipe's stage `student` first")
    for path in paths:
        _require_vocabulary(path, tokenizer)
    shards = [load_file(path) for path in paths]
    return {name: torch.cat([shard[name] for shard in shards]) for name in shards[0]}


def _require_vocabulary(path: Path, tokenizer: CLIPTokenizer) -> None:
    with safe_open(path, "pt") as shard:
        vocabulary = (shard.metadata() or {}).get("vocabulary")
    if vocabulary != fingerprint(tokenizer):
        raise ValueError(
            f"the pairs in {path.parent} hold tokens of another vocabulary than the tokenizer's: a generator trained "
            "on them would not understand its prompts; delete that folder, and the generator's checkpoints beside it"
        )


class StudentStage(Stage):
    """v-prediction on the pairs: most samples at the last timestep, the rest where 2 and 4 steps pass.

    Those start from the student's own one-step output.

    Args:
        tokenizer: the one that the pairs' tokens were made with.
        pairs: folder of `make_pairs`.
        steps: as for every stage; so are the next three.
        batch_size: likewise.
        learning_rate: likewise.
        seed: likewise.
        first_step_share: share of samples at the last timestep.
    """

    def __init__(
        self,
        tokenizer: CLIPTokenizer,
        pairs: Path,
        steps: int = 6000,
        batch_size: int = 64,
        learning_rate: float = 1.2e-3,
        seed: int = 6,
        first_step_share: float = 0.75,
    ) -> None:
        super().__init__(steps, batch_size, learning_rate, seed)
        self.first_step_share = first_step_share
        width = 96
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=width,
                intermediate_size=3 * width,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=tokenizer.model_max_length,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        self.unet = UNet2DConditionModel(
            sample_size=NOISE_SHAPE[-1],
            in_channels=NOISE_SHAPE[0],
            out_channels=NOISE_SHAPE[0],
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            block_out_channels=(64, 128),
            layers_per_block=1,
            cross_attention_dim=width,
            attention_head_dim=(2, 4),
            norm_num_groups=16,
            use_linear_projection=True,
        )
        self.scheduler = build_scheduler()
        self.pairs = load_pairs(pairs, tokenizer)

    def loss(self, rng: torch.Generator, words: random.Random) -> dict[str, Tensor]:
        index = torch.randint(len(self.pairs["tokens"]), (self.batch_size,), generator=rng)
        noise, latents = (self.pairs[name][index].float().to(self.device) for name in ("noise", "latents"))
        tokens = self.pairs["tokens"][index].long().to(self.device)
        later = torch.tensor([749, 499, 249])[torch.randint(3, (self.batch_size,), generator=rng)]
        first = torch.rand(self.batch_size, generator=rng) < self.first_step_share
        timestep = torch.where(first, 999, later).to(self.device)
        first = first.to(self.device)
        embeds = self.text_encoder(input_ids=tokens).last_hidden_state
        noisy = self.revisit(noise, timestep, first, embeds.detach())
        clean, noisiness = self.signal_and_noise(timestep)
        # The v that leads from `noisy` to the pair's latents: x0 = clean * noisy - noisiness * v.
        target = (clean * noisy - latents) / noisiness
        predicted = self.unet(noisy, timestep, embeds).sample
        error = F.smooth_l1_loss(predicted, target, beta=0.5, reduction="none").mean((1, 2, 3))
        square = (predicted - target).detach().pow(2).mean((1, 2, 3))
        return {"loss": error.mean(), "one_step_mse": square[first].mean(), "later_mse": square[~first].mean()}

    @torch.no_grad()
    def revisit(self, noise: Tensor, timestep: Tensor, first: Tensor, embeds: Tensor) -> Tensor:
        """What the generator itself sees at `timestep` [B]: the noise where `first`, else a DDIM step from its x0."""
        clean, noisiness = self.signal_and_noise(timestep)
        seen, again = noise.clone(), ~first
        if again.any():
            last = torch.full_like(timestep[again], 999)
            guess = -self.unet(noise[again], last, embeds[again]).sample
            seen[again] = clean[again] * guess + noisiness[again] * noise[again]
        return seen

    def signal_and_noise(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of x0 and of the noise in x_t at `timestep` [B], each [B, 1, 1, 1]."""
        alpha = self.scheduler.alphas_cumprod.to(self.device)[timestep].view(-1, 1, 1, 1)
        return alpha.sqrt(), (1 - alpha).sqrt()

    def pipeline(self, tokenizer: CLIPTokenizer, autoencoder: AutoencoderKL) -> StableDiffusionPipeline:
        """The trained stack as a stock pipeline."""
        return StableDiffusionPipeline(
            vae=autoencoder,
            text_encoder=self.text_encoder,
            tokenizer=tokenizer,
            unet=self.unet,
            scheduler=self.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
