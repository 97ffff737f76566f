"""What the report measures: GenEval-style verdicts, reconstructions, hard negatives, sizes. One function each."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hn.evaluation.detectors.miniature import GridDetector
from hn.evaluation.geneval import evaluate
from hn.generators.pipeline import DiffusersGenerator
from hn.miniature.captions import Caption, captions_of, evaluation_prompts, split_captions
from hn.miniature.prompts import PER_TAG
from hn.miniature.renderer import render
from hn.miniature.scenes import directions, scenes_of
from hn.miniature.world import TAGS, Split
from hn.rewards.base import Reward

BATCH = 128


def held_out_captions(per_tag: int, seed: int = 0) -> list[Caption]:
    """`per_tag` captions a tag of the test split, drawn with replacement."""
    words = random.Random(seed)
    return [caption for tag in TAGS for caption in words.choices(split_captions(tag, "test"), k=per_tag)]


def evaluation_captions() -> list[Caption]:
    """The captions of `test.jsonl`, in its order."""
    by_text = {caption.text(): caption for tag in TAGS for caption in captions_of(tag)}
    return [by_text[row["prompt"]] for row in evaluation_prompts("test", PER_TAG["test"])]


@torch.no_grad()
def clean_renders(captions: list[Caption], seed: int = 0) -> Tensor:
    """Images [N, 3, 32, 32] of clean scenes that fulfil the captions."""
    rng = torch.Generator().manual_seed(seed)
    return torch.cat([render(scenes_of(captions[i : i + BATCH], rng)) for i in range(0, len(captions), BATCH)])


def verdicts(detector: GridDetector, images: Tensor, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Share of images that show what their metadata row asks for, by tag, and `overall`, the mean over tags.

    GenEval's own thresholds; images [N, 3, H, W] in [0, 1].
    """
    right: dict[str, list[bool]] = {}
    for start in range(0, len(images), BATCH):
        found = detector.detect(images[start : start + BATCH])
        for detections, row in zip(found, rows[start : start + BATCH], strict=True):
            right.setdefault(row["tag"], []).append(evaluate(detections, row).correct)
    shares = {tag: sum(hits) / len(hits) for tag, hits in right.items()}
    return {"overall": sum(shares.values()) / len(shares), **shares}


@torch.no_grad()
def reconstruct(generator: DiffusersGenerator, images: Tensor) -> Tensor:
    """Images [N, 3, 32, 32] in [0, 1], encoded to the mean of their latents and decoded as the generator does."""
    autoencoder = generator.pipe.vae
    parts = []
    for batch in images.split(BATCH):
        latents = autoencoder.encode(batch * 2 - 1).latent_dist.mean * autoencoder.config.scaling_factor
        parts.append(generator.decode(latents))
    return torch.cat(parts)


def psnr(images: Tensor, reference: Tensor) -> float:
    """Mean over images of the peak signal-to-noise ratio in dB, for values in [0, 1]."""
    error = (images - reference).square().mean((1, 2, 3))
    return (-10 * error.clamp_min(1e-10).log10()).mean().item()


@torch.no_grad()
def generate(generator: DiffusersGenerator, noise: Tensor, prompts: Sequence[str], steps: int) -> Tensor:
    """Images [N, 3, 32, 32] of N prompts from noise [N, 8, 8, 8]."""
    parts = []
    for start in range(0, len(noise), BATCH):
        conditioning = generator.encode(prompts[start : start + BATCH])
        parts.append(generator.generate(noise[start : start + BATCH], conditioning, steps))
    return torch.cat(parts)


@torch.no_grad()
def hard_negative_accuracy(
    reward: Reward, split: Split, samples: int = 200, seed: int = 9
) -> dict[str, dict[str, float]]:
    """How often a clean render scores higher with its own caption than with flips of it that the render contradicts.

    Returns:
        By tag: `each`, the share of single flips beaten, averaged over captions; `all`, the share of captions that beat
        all their flips (five, as a rule).
    """
    words, rng = random.Random(seed), torch.Generator().manual_seed(seed)
    result = {}
    for tag in TAGS:
        captions = words.choices(split_captions(tag, split), k=samples)
        scenes = scenes_of(captions, rng)
        texts = [
            [caption.text(), *(flip.text() for flip in caption.contradicted_flips(words, direction))]
            for caption, direction in zip(captions, directions(scenes).tolist(), strict=True)
        ]
        wins = [scores[0] > scores[1:] for scores in _scores(reward, render(scenes), texts)]
        each = torch.stack([won.float().mean() for won in wins]).mean().item()
        result[tag] = {"each": each, "all": sum(bool(won.all()) for won in wins) / len(wins)}
    return result


def _scores(reward: Reward, images: Tensor, texts: Sequence[Sequence[str]]) -> list[Tensor]:
    """Each image's scores with its own texts."""
    rows = torch.arange(len(images)).repeat_interleave(torch.tensor([len(group) for group in texts]))
    flat = [text for group in texts for text in group]
    scores = [
        reward(images[rows[start : start + BATCH]], flat[start : start + BATCH]) for start in range(0, len(flat), BATCH)
    ]
    return list(torch.cat(scores).split([len(group) for group in texts]))


def megabytes(folder: str | Path) -> float:
    """Size of all files in a folder, in units of 10^6 bytes."""
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) / 1e6
