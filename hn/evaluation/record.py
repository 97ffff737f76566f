"""What was measured of one method, image by image, and its summary beside the base."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hn.evaluation.bootstrap import paired_bootstrap
from hn.evaluation.fidelity import cmmd


class MethodRecord:
    """Scores of a method over an evaluation set; images come in any order, prompt by prompt.

    Args:
        name: of the method, as in `results.json`.
        nfe: forward passes of the backbone for one image.
    """

    def __init__(self, name: str, nfe: float) -> None:
        self.name, self.nfe, self.seconds = name, nfe, 0.0
        self._parts: dict[str, list[Tensor]] = defaultdict(list)
        self._tags: list[str] = []

    def add(
        self, index: Tensor, tags: list[str], scores: dict[str, Tensor], kl_nats: Tensor | None, seconds: float
    ) -> None:
        """Append one batch: prompt numbers [B], their tags, scores of the `Scorer`, 1/2 |f|^2 [B] and the time it took."""
        self._parts["index"].append(index.cpu())
        for name, value in scores.items():
            self._parts[name].append(value)
        if kl_nats is not None:
            self._parts["kl_nats"].append(kl_nats.detach().float().cpu())
        self._tags += tags
        self.seconds += seconds

    def __len__(self) -> int:
        return len(self._tags)

    def column(self, name: str) -> Tensor:
        """All images' values of one score."""
        return torch.cat(self._parts[name])

    def has(self, name: str) -> bool:
        return bool(self._parts.get(name))

    def names(self, prefix: str) -> list[str]:
        return sorted(name for name in self._parts if name.startswith(prefix))

    def per_prompt(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Mean score of every prompt, ordered by the prompt's number, and its tag."""
        index, values = self.column("index").numpy(), self.column(name).double().numpy()
        tags = np.array(self._tags)
        keys, first, inverse = np.unique(index, return_index=True, return_inverse=True)
        means = np.bincount(inverse, values) / np.bincount(inverse)
        assert len(keys) == len(means)
        return means, tags[first]

    def geneval(self) -> dict[str, float] | None:
        """Share of correct images per tag and their unweighted mean `overall`; None without verdicts."""
        if not self.has("correct"):
            return None
        correct, tags = self.column("correct"), np.array(self._tags)
        judged = ~torch.isnan(correct).numpy()
        scores = {
            tag: float(correct[torch.from_numpy((tags == tag) & judged)].mean()) for tag in dict.fromkeys(tags[judged])
        }
        return {"overall": float(np.mean(list(scores.values()))), **scores} if scores else None

    def summary(self, base: MethodRecord | None = None, reference: Tensor | None = None) -> dict[str, Any]:
        """The method's entry in `results.json`.

        Args:
            base: the base's record, for the paired intervals; None for the base itself.
            reference: features [N, D] of the base's images of other noises, for the fidelity distance.
        """
        held_out = {name.removeprefix("held_out/"): float(self.column(name).mean()) for name in self.names("held_out/")}
        result: dict[str, Any] = {
            "reward": float(self.column("reward").mean()),
            "rewards": {n.removeprefix("reward/"): float(self.column(n).mean()) for n in self.names("reward/")},
            "held_out_reward": float(np.mean(list(held_out.values()))) if held_out else None,
            "held_out_rewards": held_out,
            "geneval": self.geneval(),
            "seconds_per_image": self.seconds / max(1, len(self)),
            "nfe": self.nfe,
            "kl_nats": float(self.column("kl_nats").mean()) if self.has("kl_nats") else None,
            "fidelity": cmmd(self.column("features"), reference)
            if reference is not None and self.has("features")
            else None,
            "images": len(self),
        }
        if base is not None:
            result["reward_delta_ci95"] = self._interval(base, "reward", by_tag=False)
            result["geneval_delta_ci95"] = self._interval(base, "correct", by_tag=True) if result["geneval"] else None
            first = self.names("held_out/")[:1]
            result["held_out_reward_delta_ci95"] = self._interval(base, first[0], by_tag=False) if first else None
        return result

    def _interval(self, base: MethodRecord, name: str, by_tag: bool) -> list[float]:
        ours, tags = self.per_prompt(name)
        theirs, _ = base.per_prompt(name)
        keep = ~np.isnan(ours)
        found = paired_bootstrap(theirs[keep], ours[keep], tags[keep].tolist() if by_tag else None)
        return [found.low, found.high]
