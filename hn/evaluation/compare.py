"""The loop of a comparison: every method on the same prompts and noise, one record each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from hn.evaluation.methods import Method
from hn.evaluation.record import MethodRecord
from hn.evaluation.scorer import Scorer
from hn.generators.base import Generator
from hn.noise import evaluation_noise

Progress = Callable[[Sequence[Any], str], Iterable[Any]]


def measure(
    method: Method,
    scorer: Scorer,
    generator: Generator,
    batches: Sequence[dict[str, Any]],
    images_per_prompt: int,
    seed: int,
    progress: Progress = lambda batches, name: batches,
) -> MethodRecord:
    """Run one method over the evaluation batches and score its images.

    The conditioning of a batch is encoded before the clock starts: all methods share it.

    Args:
        method: what makes the images.
        scorer: what judges them.
        generator: whose noise is drawn; each prompt's noise depends on seed, prompt and image number alone.
        batches: of a prompt data loader: `prompt`, `metadata`, `index`.
        images_per_prompt: images of each prompt.
        seed: of the noise.
        progress: wraps the batches in a progress bar.
    """
    record = MethodRecord(method.name, method.nfe)
    for batch in progress(batches, method.name):
        prompts = [prompt for prompt in batch["prompt"] for _ in range(images_per_prompt)]
        metadata = [row for row in batch["metadata"] for _ in range(images_per_prompt)]
        noise = evaluation_noise(generator, batch["index"].tolist(), images_per_prompt, seed)
        generator.encode(prompts)
        synchronize(noise)
        started = time.perf_counter()
        output = method(noise, prompts)
        synchronize(noise)
        seconds = time.perf_counter() - started
        tags = [row.get("tag", "all") for row in metadata]
        scores = scorer(output.images, prompts, metadata)
        record.add(batch["index"].repeat_interleave(images_per_prompt), tags, scores, output.kl_nats, seconds)
    record.nfe = method.nfe
    return record


@torch.no_grad()
def reference_features(
    generator: Generator, scorer: Scorer, batches: Sequence[dict[str, Any]], images_per_prompt: int, seed: int
) -> Tensor | None:
    """Features [N, D] of the base's images of the same prompts from other noise: what fidelity is measured against."""
    if scorer.features is None:
        return None
    features = []
    for batch in batches:
        prompts = [prompt for prompt in batch["prompt"] for _ in range(images_per_prompt)]
        noise = evaluation_noise(generator, batch["index"].tolist(), images_per_prompt, seed + 1_000_003)
        features.append(
            scorer.features.image_features(generator.generate(noise, generator.encode(prompts))).float().cpu()
        )
    return torch.cat(features)


def synchronize(tensor: Tensor) -> None:
    """Wait for the accelerator, so that a clock means something."""
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
