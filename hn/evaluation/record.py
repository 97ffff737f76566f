"""What was measured of one method, image by image, and its summary beside the base."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from hn.evaluation.bootstrap import paired_bootstrap
from hn.evaluation.fidelity import cmmd
from hn.evaluation.methods import MethodOutput
from hn.evaluation.samples import Samples


class MethodRecord:
    """Scores of one method over an evaluation set, image by image, in any order.

    Args:
        name: of the method, as in `results.json`.
        nfe: forward passes of the backbone for one image.

    Attributes:
        batches: number of batches appended so far.
        seconds: that the method took for them.
        peak_memory_bytes: the largest of the batches' peaks; None off the GPU.
    """

    def __init__(self, name: str, nfe: float = float("nan")) -> None:
        self.name, self.nfe, self.seconds, self.batches = name, nfe, 0.0, 0
        self.peak_memory_bytes: int | None = None
        self._trace: list[list[float]] = []  # a search's points: passes, and seconds and rewards summed over the images
        self._parts: dict[str, list[Tensor]] = defaultdict(list)
        self._tags: list[str] = []

    def add(self, samples: Samples, output: MethodOutput, scores: dict[str, Tensor]) -> None:
        """Append one batch.

        Args:
            samples: B samples.
            output: what the method made of them.
            scores: what the `Scorer` says of its images, [B] or [B, D] by name.
        """
        self._parts["index"].append(torch.tensor(samples.index))
        self._parts["copy"].append(torch.tensor(samples.copy))
        for name, value in scores.items():
            self._parts[name].append(value)
        if output.kl_nats is not None:
            self._parts["kl_nats"].append(output.kl_nats.detach().float().cpu())
        self._tags += samples.tags
        self.seconds += output.seconds
        if output.peak_memory_bytes is not None:
            self.peak_memory_bytes = max(self.peak_memory_bytes or 0, output.peak_memory_bytes)
        if output.trace:
            points = [[point["nfe"], point["seconds"], float(point["best_reward"].sum())] for point in output.trace]
            self._trace = _summed(self._trace, points) if self.batches else points
        self.batches += 1

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that it holds, as tensors and as values that JSON has, for `of_state`."""
        facts = {"name": self.name, "nfe": self.nfe, "seconds": self.seconds, "batches": self.batches}
        facts |= {"peak_memory_bytes": self.peak_memory_bytes, "trace": self._trace}
        return {name: self.column(name) for name in self._parts}, {**facts, "tags": self._tags}

    @classmethod
    def of_state(cls, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Self:
        """The record that had this `state`."""
        record = cls(facts["name"], facts["nfe"])
        record.seconds, record.batches, record._tags = facts["seconds"], facts["batches"], list(facts["tags"])
        record.peak_memory_bytes, record._trace = facts["peak_memory_bytes"], facts["trace"]
        record._parts.update({name: [column] for name, column in tensors.items()})
        return record

    def __len__(self) -> int:
        return len(self._tags)

    @property
    def tags(self) -> list[str]:
        """GenEval's tag of every image, in the order of the columns."""
        return list(self._tags)

    @property
    def score_names(self) -> list[str]:
        """Names of all that was recorded, in alphabetical order."""
        return sorted(self._parts)

    def trace(self) -> list[dict[str, float]]:
        """What a search had after each budget, on average over all images; empty for other methods.

        Returns:
            `nfe`, passes of the backbone for one image; `seconds_per_image`; `reward`, the best so far.
        """
        return [
            {"nfe": nfe, "seconds_per_image": seconds / len(self), "reward": reward / len(self)}
            for nfe, seconds, reward in self._trace
        ]

    def has(self, name: str) -> bool:
        """Whether a score of that name was recorded."""
        return name in self._parts

    def column(self, name: str) -> Tensor:
        """All images' values of one score, [N] or [N, D]."""
        return torch.cat(self._parts[name])

    def mean(self, name: str) -> float | None:
        """Mean of a score over all images; None if it was not recorded."""
        return float(self.column(name).double().mean()) if self.has(name) else None

    def per_prompt(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Mean score of every prompt, and the prompts' tags, both ordered by the prompts' numbers."""
        index, values = self.column("index").numpy(), self.column(name).double().numpy()
        _, first, inverse = np.unique(index, return_index=True, return_inverse=True)
        return np.bincount(inverse, values) / np.bincount(inverse), np.array(self._tags)[first]

    def geneval(self) -> dict[str, float] | None:
        """`overall`, the unweighted mean over tags, and the share of correct images of each tag; None without verdicts.

        Images of prompts that ask nothing a detector could judge are left out.
        """
        if not self.has("correct"):
            return None
        correct, tags = self.column("correct").double().numpy(), np.array(self._tags)
        judged = ~np.isnan(correct)
        shares = {str(tag): float(correct[(tags == tag) & judged].mean()) for tag in dict.fromkeys(tags[judged])}
        return {"overall": float(np.mean(list(shares.values()))), **shares} if shares else None

    def summary(self, base: MethodRecord | None = None, reference: Tensor | None = None) -> dict[str, Any]:
        """The method's entry in `results.json`.

        Args:
            base: the base's record of the same samples, for the paired intervals; None for the base itself.
            reference: features [N, D] of the base's images of other noise, for the fidelity distance, which takes two
                images at least.
        """
        geneval = self.geneval()
        fidelity = None
        if reference is not None and self.has("features") and min(len(self), len(reference)) >= 2:
            fidelity = cmmd(self.column("features"), reference)
        result: dict[str, Any] = {
            "reward": self.mean("reward"),
            "rewards": self._means("reward/"),
            "held_out_reward": self.mean("held_out"),
            "held_out_rewards": self._means("held_out/"),
            "geneval": geneval,
            "seconds_per_image": self.seconds / max(1, len(self)),
            "nfe": self.nfe,
            "kl_nats": self.mean("kl_nats"),
            "fidelity": fidelity,
            "images": len(self),
        }
        if base is not None:
            result["reward_delta_ci95"] = self.interval("reward", base)
            result["held_out_reward_delta_ci95"] = self.interval("held_out", base)
            result["geneval_delta_ci95"] = self.interval("correct", base, by_tag=True) if geneval else None
        return result

    def _means(self, prefix: str) -> dict[str, float]:
        return {name.removeprefix(prefix): self.mean(name) for name in self._parts if name.startswith(prefix)}

    def interval(
        self, name: str, base: MethodRecord | None = None, by_tag: bool = False, tag: str | None = None
    ) -> list[float] | None:
        """Bounds of the 95 % bootstrap interval of a score's mean over prompts.

        Prompts without a verdict are left out.

        Args:
            name: of the score.
            base: another method's record of the same samples: the interval is of the advantage over it, prompts paired.
            by_tag: whether the mean is that of the tags' means, as GenEval's is.
            tag: of these prompts alone.

        Returns:
            Low and high; None if the score was not recorded, is no finite number, as of a run that diverged, or there
            are no such prompts.
        """
        if not self.has(name):
            return None
        ours, tags = self.per_prompt(name)
        theirs = np.zeros_like(ours) if base is None else base.per_prompt(name)[0]
        kept = np.ones(len(tags), dtype=bool) if tag is None else tags == tag
        if name == "correct":
            kept &= ~np.isnan(ours if base is None else theirs)
        ours, theirs, tags = ours[kept], theirs[kept], tags[kept]
        if not len(ours) or not np.isfinite(ours - theirs).all():
            return None
        found = paired_bootstrap(theirs, ours, tags.tolist() if by_tag else None)
        return [found.low, found.high]


def _summed(trace: list[list[float]], more: list[list[float]]) -> list[list[float]]:
    """Points of a trace, joined with another batch's; the shorter one stays where it ended."""
    longer = max(trace, more, key=len)
    sums = []
    for k, (nfe, *_) in enumerate(longer):
        ours, theirs = trace[min(k, len(trace) - 1)], more[min(k, len(more) - 1)]
        sums.append([nfe, ours[1] + theirs[1], ours[2] + theirs[2]])
    return sums
