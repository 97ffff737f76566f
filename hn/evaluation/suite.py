"""A set of prompts to be measured on, with categories, and what a record says of each category."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import torch

from hn.data.prompts import Prompt, PromptBatch, PromptDataset, collate_prompts, normalised
from hn.data.sources import Sources
from hn.data.store import PromptStore
from hn.evaluation.categories import Categories
from hn.evaluation.record import MethodRecord


@dataclass(frozen=True)
class SuitePrompts:
    """The prompts of a suite.

    Attributes:
        prompts: in the order of their files. `index` is the place in the whole of them, whatever was left out, so that
            a prompt's noise does not depend on that.
        categories: of each prompt; None without.
        n_excluded: number of prompts that were left out as they are trained on.
    """

    prompts: list[Prompt]
    categories: list[str] | None
    n_excluded: int

    @classmethod
    def read(
        cls,
        sources: Sources,
        category: str | None = None,
        limit: int | None = None,
        exclude: Iterable[str] = (),
        store: PromptStore | None = None,
    ) -> Self:
        """Read files and named sets.

        Args:
            sources: as `PromptDataset` takes them.
            category: field of the rows, or "file" for the file or set that a prompt comes from.
            limit: keep only so many, evenly spread: sets are often sorted by category.
            exclude: prompts to leave out (before `limit`), compared as `hn.data.prompts.normalised` says.
            store: where named sets are; the user's by default.

        Raises:
            FileNotFoundError, ValueError, DownloadError: as `PromptDataset`; also if no row has the category's field,
                `limit` is below 1, or every prompt is trained on.
        """
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1, or None for all prompts, not {limit}")
        dataset = PromptDataset(sources, store=store)
        rows, files = dataset.rows, dataset.files
        categories = None if category is None else Categories.by(category, rows, files).names
        own = [normalised(row["prompt"]) for row in rows]
        unwanted = {*map(normalised, exclude)}
        kept = [i for i, prompt in enumerate(own) if prompt not in unwanted]
        if not kept:
            raise ValueError(f"{', '.join(dict.fromkeys(files))}: every prompt is trained on, none is left")
        n_excluded = len(rows) - len(kept)
        if limit is not None and limit < len(kept):
            kept = [kept[k * len(kept) // limit] for k in range(limit)]
        prompts = [Prompt(prompt=rows[i]["prompt"], metadata=rows[i], index=i) for i in kept]
        return cls(prompts, None if categories is None else [categories[i] for i in kept], n_excluded)

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def texts(self) -> list[str]:
        """The prompts themselves."""
        return [prompt["prompt"] for prompt in self.prompts]

    def batches(self, size: int) -> list[PromptBatch]:
        """All of them, `size` at a time."""
        return [collate_prompts(self.prompts[start : start + size]) for start in range(0, len(self), size)]

    def by_category(self, record: MethodRecord) -> dict[str, dict[str, Any]]:
        """What a record of these prompts says of each category, in the order of first appearance.

        Returns:
            By category: `prompts`, `images`, and the means `reward` and `held_out_reward` (None where it was not
            recorded). Empty without categories.
        """
        if self.categories is None:
            return {}
        of_prompt = {prompt["index"]: name for prompt, name in zip(self.prompts, self.categories, strict=True)}
        of_image = [of_prompt[index] for index in record.column("index").tolist()]
        summary = {}
        for name in dict.fromkeys(self.categories):
            mask = torch.tensor([own == name for own in of_image])
            means: dict[str, float | None] = {}
            for key, column in (("reward", "reward"), ("held_out_reward", "held_out")):
                values = record.column(column)[mask].double() if record.has(column) else torch.empty(0)
                values = values[values.isfinite()]
                means[key] = float(values.mean()) if len(values) else None
            summary[name] = {"prompts": self.categories.count(name), "images": int(mask.sum()), **means}
        return summary
