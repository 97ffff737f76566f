"""The loop of a comparison: every method on the same prompts and noise, one record each."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from hn.data.prompts import PromptBatch
from hn.evaluation.methods import Method, MethodOutput
from hn.evaluation.record import MethodRecord
from hn.evaluation.samples import Samples
from hn.evaluation.scorer import Scorer
from hn.generators.base import Generator

# Far from any seed that a person would choose, so that a method never meets the reference's noise.
_REFERENCE_SEED_OFFSET = 1_000_003


def measure(
    method: Method,
    scorer: Scorer,
    generator: Generator,
    batches: Iterable[PromptBatch],
    images_per_prompt: int,
    seed: int,
    record: MethodRecord | None = None,
    after_batch: Callable[[MethodRecord], None] | None = None,
    after_images: Callable[[str, Samples, Tensor], None] | None = None,
) -> MethodRecord:
    """Run one method over evaluation batches and score its images.

    Args:
        method: what makes the images.
        scorer: what scores them.
        generator: whose noise is drawn; an image's noise depends on seed, prompt and image number alone.
        batches: of a prompt data loader.
        images_per_prompt: images of each prompt.
        seed: of the noise.
        record: of the batches before these, which is continued; a new one if not given.
        after_batch: called with the record so far, after every batch.
        after_images: called before that with the method's name, the samples and their images [B, 3, H, W] in [0, 1].
    """
    record = MethodRecord(method.name, method.nfe) if record is None else record
    for batch in batches:
        samples = Samples.draw(generator, batch, images_per_prompt, seed)
        output = method(samples)
        record.add(samples, output, scorer(output.images, samples.prompts, samples.metadata))
        for count, earlier in output.earlier.items():
            record.at(count).add(samples, earlier, scorer(earlier.images, samples.prompts, samples.metadata))
        if after_images is not None:  # before the record says that the batch is done
            after_images(method.name, samples, output.images)
            for count, earlier in output.earlier.items():
                after_images(record.at(count).name, samples, earlier.images)
        if after_batch is not None:
            after_batch(record)
    return record


def reference_features(
    generator: Generator, scorer: Scorer, batches: Iterable[PromptBatch], images_per_prompt: int, seed: int
) -> dict[str, Tensor] | None:
    """Features [N, D] of the base's images of the same prompts from other noise: what distances are measured against.

    By the names that they have in a `MethodRecord`; None if the scorer has no features.
    """
    record = reference_record(generator, scorer, batches, images_per_prompt, seed)
    return None if record is None else features_of(record)


@torch.no_grad()
def reference_record(
    generator: Generator, scorer: Scorer, batches: Iterable[PromptBatch], images_per_prompt: int, seed: int
) -> MethodRecord | None:
    """Likewise as a record, which knows the prompts' numbers, so that those of several processes can be joined."""
    if not scorer.has_features:
        return None
    record = MethodRecord("reference")
    for batch in batches:
        samples = Samples.draw(generator, batch, images_per_prompt, seed + _REFERENCE_SEED_OFFSET)
        images = generator.generate(samples.noise, generator.encode(samples.prompts), rng=samples.streams())
        record.add(samples, MethodOutput(images, None, 0.0), scorer.image_features(images))
    return record


def features_of(record: MethodRecord) -> dict[str, Tensor]:
    """The columns of a record that are features, [N, D] each."""
    return {name: column for name, column in record.columns().items() if name.partition("/")[0] == "features"}
