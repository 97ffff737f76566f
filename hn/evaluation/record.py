"""What was measured of one method, image by image, and its summary beside the base."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, distributed

from hn.evaluation.methods import MethodOutput
from hn.evaluation.metrics.bootstrap import paired_bootstrap
from hn.evaluation.metrics.cmmd import cmmd, frechet_distance, kid
from hn.evaluation.metrics.diversity import pairwise_cosine_distance
from hn.evaluation.samples import Samples

_EARLIER = "earlier/"  # before the number and the name of such a record's columns
_ALWAYS_MEASURED = ("reward", "held_out", "kl_nats", "features")
"""Scores, up to a "/", that every image has; NaN means for others that a row asks nothing."""


class MethodRecord:
    """Scores of one method over an evaluation set, image by image, in any order.

    Args:
        name: of the method, as in `results.json`.
        nfe: forward passes of the backbone for one image.

    Attributes:
        batches: number of batches appended so far.
        seconds: that the method took for them.
        earlier: records of what a search had found after so many images of each sample, see `MethodOutput.earlier`.
        peak_memory_bytes: the largest of the batches' peaks; None where they are not known.
    """

    def __init__(self, name: str, nfe: float = float("nan")) -> None:
        self.name, self.nfe, self.seconds, self.batches = name, nfe, 0.0, 0
        self.earlier: dict[int, MethodRecord] = {}
        self.peak_memory_bytes: int | None = None
        self._trace: list[
            list[float]
        ] = []  # a search's points: passes, seconds and rewards, each summed over the images
        self._parts: dict[str, list[Tensor]] = defaultdict(list)
        self._tags: list[str] = []
        self._not_finite: dict[int, str] = {}  # prompts with such a score, by number

    def add(self, samples: Samples, output: MethodOutput, scores: dict[str, Tensor]) -> None:
        """Append one batch.

        Args:
            samples: B samples.
            output: what the method made of them.
            scores: what the `Scorer` says of its images, [B] or [B, D] by name.
        """
        self._parts["index"].append(torch.tensor(samples.index))
        self._parts["copy"].append(torch.tensor(samples.copy))
        if output.kl_nats is not None:
            scores = {**scores, "kl_nats": output.kl_nats.detach().float().cpu()}
        for name, value in scores.items():
            self._parts[name].append(value)
            if name.partition("/")[0] in _ALWAYS_MEASURED:
                bad = (~value.isfinite()).reshape(len(value), -1).any(dim=1).nonzero().flatten().tolist()
                self._not_finite |= {samples.index[place]: samples.prompts[place] for place in bad}
        if output.nfe is not None:  # of a search, whose images need not all take as many
            done = len(self)
            self.nfe = (done * self.nfe + len(samples) * output.nfe) / (done + len(samples)) if done else output.nfe
        self._tags += samples.tags
        self.seconds += output.seconds
        if output.peak_memory_bytes is not None:
            self.peak_memory_bytes = max(self.peak_memory_bytes or 0, output.peak_memory_bytes)
        if output.trace:
            points = [
                [len(samples) * point["nfe"], point["seconds"], float(point["best_reward"].sum())]
                for point in output.trace
            ]
            self._trace = _summed(self._trace, points) if self.batches else points
        self.batches += 1

    def at(self, count: int) -> MethodRecord:
        """The record of what a search had found after `count` images of each sample; `<name>@<count>`."""
        return self.earlier.setdefault(count, MethodRecord(f"{self.name}@{count}"))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that it holds, as tensors and as values that JSON has, for `of_state`."""
        facts = {"name": self.name, "nfe": self.nfe, "seconds": self.seconds, "batches": self.batches}
        facts |= {"peak_memory_bytes": self.peak_memory_bytes, "trace": self._trace}
        tensors = self.columns()
        earlier = {}
        for count, record in self.earlier.items():
            columns, earlier[count] = record.state()
            tensors |= {f"{_EARLIER}{count}/{name}": column for name, column in columns.items()}
        prompts = {str(number): prompt for number, prompt in self._not_finite.items()}
        return tensors, {**facts, "tags": self._tags, "earlier": earlier, "not_finite": prompts}

    @classmethod
    def of_state(cls, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Self:
        """The record that had this `state`."""
        record = cls(facts["name"], facts["nfe"])
        record.seconds, record.batches, record._tags = facts["seconds"], facts["batches"], list(facts["tags"])
        record.peak_memory_bytes, record._trace = facts["peak_memory_bytes"], facts["trace"]
        record._not_finite = {int(number): prompt for number, prompt in facts.get("not_finite", {}).items()}
        record._parts.update({name: [c] for name, c in tensors.items() if not name.startswith(_EARLIER)})
        for count, earlier in facts["earlier"].items():
            prefix = f"{_EARLIER}{count}/"
            columns = {name.removeprefix(prefix): c for name, c in tensors.items() if name.startswith(prefix)}
            record.earlier[int(count)] = cls.of_state(columns, earlier)
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
            {"nfe": nfe / len(self), "seconds_per_image": seconds / len(self), "reward": reward / len(self)}
            for nfe, seconds, reward in self._trace
        ]

    def has(self, name: str) -> bool:
        """Whether a score of that name was recorded."""
        return name in self._parts

    def column(self, name: str) -> Tensor:
        """All images' values of one score, [N] or [N, D]."""
        return torch.cat(self._parts[name])

    def columns(self) -> dict[str, Tensor]:
        """All scores, and `index` and `copy`, the samples' numbers, by name."""
        return {name: self.column(name) for name in self._parts}

    def mean(self, name: str) -> float | None:
        """Mean of a score over all images where it is finite, NaN without any; None if it was not recorded."""
        if not self.has(name):
            return None
        values = self.column(name).double()
        return float(values[values.isfinite()].mean())

    def not_finite(self) -> dict[str, Any] | None:
        """What means leave out: `scores`, by name how many are `left_out` and the number `n` that stays; `prompts`,
        those with such a score. None if all scores are finite."""
        if not self._not_finite:
            return None
        scores = {}
        for name in self.score_names:
            if name.partition("/")[0] in _ALWAYS_MEASURED:
                n = int(self.column(name).isfinite().reshape(len(self), -1).all(dim=1).sum())
                if n < len(self):
                    shown = "held_out_reward" if name == "held_out" else name
                    scores[shown] = {"left_out": len(self) - n, "n": n}
        return {"scores": scores, "prompts": [self._not_finite[number] for number in sorted(self._not_finite)]}

    def per_prompt(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Mean score of every prompt over images where it is finite, NaN without any, and the prompts' tags; both
        ordered by the prompts' numbers."""
        index, values = self.column("index").numpy(), self.column(name).double().numpy()
        _, first, inverse = np.unique(index, return_index=True, return_inverse=True)
        known = np.isfinite(values)
        with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
            means = np.bincount(inverse, np.where(known, values, 0)) / np.bincount(inverse, known)
        return means, np.array(self._tags)[first]

    def geneval(self) -> dict[str, float] | None:
        """`overall`, the unweighted mean over tags, and the share of correct images of each tag; None without verdicts.

        Images of prompts that ask nothing that a detector could answer are left out.
        """
        if not self.has("correct"):
            return None
        correct, tags = self.column("correct").double().numpy(), np.array(self._tags)
        answered = ~np.isnan(correct)
        shares = {str(tag): float(correct[(tags == tag) & answered].mean()) for tag in dict.fromkeys(tags[answered])}
        return {"overall": float(np.mean(list(shares.values()))), **shares} if shares else None

    def summary(
        self, base: MethodRecord | None = None, reference: Mapping[str, Tensor] | None = None
    ) -> dict[str, Any]:
        """The method's entry in `results.json`.

        Args:
            base: the base's record of the same samples, for the paired intervals; None for the base itself.
            reference: features [N, D] of the base's images of other noise, by the names that they have in a record;
                for the distances, which take two images at least.
        """
        geneval = self.geneval()
        pair = self._with_reference("features", reference)
        result: dict[str, Any] = {
            "reward": self.mean("reward"),
            "rewards": self._means("reward/"),
            "held_out_reward": self.mean("held_out"),
            "held_out_rewards": self._means("held_out/"),
            "geneval": geneval,
            "seconds_per_image": self.seconds / max(1, len(self)),
            "nfe": self.nfe,
            "kl_nats": self.mean("kl_nats"),
            "cmmd": None if pair is None else cmmd(*pair),
            "diversity": self._diversity("features"),
            "images": len(self),
        }
        benchmarks = {name: self.column(f"benchmark/{name}") for name in self._named("benchmark/")}
        if benchmarks:
            result["benchmarks"] = {name: float(scores.double().nanmean()) for name, scores in benchmarks.items()}
        not_finite = self.not_finite()
        if not_finite is not None:
            result["not_finite"] = not_finite
        distances = self._distances(reference)
        if distances:
            result["distances"] = distances
        if base is not None:
            result["reward_delta_ci95"] = self.interval("reward", base)
            result["held_out_reward_delta_ci95"] = self.interval("held_out", base)
            result["geneval_delta_ci95"] = self.interval("correct", base, by_tag=True) if geneval else None
        return result

    def _distances(self, reference: Mapping[str, Tensor] | None) -> dict[str, dict[str, float | None]]:
        """By the name of the scorer's `measures`: `fid`, `kid` and `cmmd` to the reference, and `diversity`."""
        distances: dict[str, dict[str, float | None]] = {}
        for column in self._parts:
            kind, _, name = column.partition("/")
            if kind == "features" and name:
                pair = self._with_reference(column, reference)
                measures = {"fid": frechet_distance, "kid": kid, "cmmd": cmmd}
                found = {key: None if pair is None else measure(*pair) for key, measure in measures.items()}
                distances[name] = {**found, "diversity": self._diversity(column)}
            elif kind == "diversity":
                per_prompt, _ = self.per_prompt(column)
                known = per_prompt[~np.isnan(per_prompt)]
                distances[name] = {"diversity": float(known.mean()) if len(known) else None}
        return distances

    def _with_reference(self, column: str, reference: Mapping[str, Tensor] | None) -> tuple[Tensor, Tensor] | None:
        """Finite features of the images and of the reference; None if there are not two of each."""
        if reference is None or not self.has(column):
            return None
        own, others = ((each[each.isfinite().all(dim=1)]) for each in (self.column(column), reference[column]))
        return (own, others) if min(len(own), len(others)) >= 2 else None

    def _diversity(self, column: str) -> float | None:
        if not self.has(column):
            return None
        features = self.column(column)
        finite = features.isfinite().all(dim=1)
        return pairwise_cosine_distance(features[finite], self.column("index")[finite])

    def _named(self, prefix: str) -> list[str]:
        """Names of scores after a prefix that they have."""
        return [name.removeprefix(prefix) for name in self._parts if name.startswith(prefix)]

    def _means(self, prefix: str) -> dict[str, float]:
        return {name: self.mean(prefix + name) for name in self._named(prefix)}

    def interval(
        self, name: str, base: MethodRecord | None = None, by_tag: bool = False, prompts: np.ndarray | None = None
    ) -> list[float] | None:
        """Bounds of the 95 % bootstrap interval of a score's mean over prompts.

        Prompts without a verdict, or without a finite score, are left out.

        Args:
            name: of the score.
            base: another method's record of the same samples: the interval is of the advantage over it, prompts paired.
            by_tag: whether the mean is that of the tags' means, as GenEval's is.
            prompts: numbers of those that it is of; all of them if not given.

        Returns:
            Low and high; None if the score was not recorded, or there are fewer than two such prompts.
        """
        if not self.has(name):
            return None
        ours, tags = self.per_prompt(name)
        theirs = np.zeros_like(ours) if base is None else base.per_prompt(name)[0]
        kept = np.ones(len(tags), dtype=bool)
        if prompts is not None:
            kept = np.isin(np.unique(self.column("index").numpy()), prompts)
        kept &= np.isfinite(ours - theirs)
        ours, theirs, tags = ours[kept], theirs[kept], tags[kept]
        if len(ours) < 2:
            return None
        found = paired_bootstrap(theirs, ours, tags.tolist() if by_tag else None)
        return [found.low, found.high]


def _summed(trace: list[list[float]], more: list[list[float]]) -> list[list[float]]:
    """Points of a trace, joined with another batch's; the shorter one stays where it ended."""
    longer = max(trace, more, key=len)
    sums = []
    for k in range(len(longer)):
        ours, theirs = trace[min(k, len(trace) - 1)], more[min(k, len(more) - 1)]
        sums.append([a + b for a, b in zip(ours, theirs, strict=True)])
    return sums


def joined(shards: Sequence[MethodRecord]) -> MethodRecord:
    """One record of all images, ordered by the prompts' numbers and the images', each image once.

    A `DistributedSampler` gives the first prompts to two processes to have equally many for all: the second time is
    dropped, so that means, verdicts and distances are those of one process.

    Args:
        shards: of one method, with the same scores; some may be empty.
    """
    filled = [shard for shard in shards if len(shard)]
    if not filled:
        return MethodRecord(shards[0].name, shards[0].nfe)
    facts = [shard.state()[1] for shard in filled]
    each = [shard.columns() for shard in filled]
    columns = {name: torch.cat([own[name] for own in each]) for name in each[0]}
    tags = [tag for own in facts for tag in own["tags"]]
    keys = list(zip(columns["index"].tolist(), columns["copy"].tolist(), strict=True))
    first = {key: place for place, key in reversed(list(enumerate(keys)))}
    order = [first[key] for key in sorted(first)]
    whole = {
        "seconds": sum(own["seconds"] for own in facts) * len(order) / len(keys),
        "batches": sum(own["batches"] for own in facts),
        "trace": [],  # of searches, which are not measured in shards
        "peak_memory_bytes": max(filter(None, (own["peak_memory_bytes"] for own in facts)), default=None),
        "tags": [tags[place] for place in order],
        "not_finite": {number: prompt for own in facts for number, prompt in own["not_finite"].items()},
        "earlier": {},
    }
    record = MethodRecord.of_state({name: column[order] for name, column in columns.items()}, facts[0] | whole)
    record.nfe = sum(shard.nfe * len(shard) for shard in filled) / len(keys)
    for count in filled[0].earlier:
        record.earlier[count] = joined([shard.earlier[count] for shard in filled])
    return record


def joined_over_processes(record: MethodRecord) -> MethodRecord:
    """`joined` of this and the other processes' records, the same in each of them; called by all at once.

    Alone, a process gets its record as it is.
    """
    if not distributed.is_available() or not distributed.is_initialized() or distributed.get_world_size() == 1:
        return record
    shards: list[MethodRecord | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(shards, record)
    return joined(shards)
