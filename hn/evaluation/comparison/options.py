"""What an experiment is compared with."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from hn.search.base import Search

_TAKEN = re.compile(r"(base|hypernetwork|finetune)(_\d+_steps?)?|.*@.*")


@dataclass
class Comparison:
    """Baselines of `hn compare`.

    Args:
        searches: test-time searches on the trained reward, by their key in `results.json`, for example `best_of_50`;
            null leaves one out. One of `hn.search.warm_start.WarmStart` starts from the trained hypernetwork's noise.
        finetune: configuration file of the direct fine-tune with the same budget; trained if it has no run yet.
        steps: numbers of sampling steps at which base, hypernetwork and fine-tune are measured besides the generator's
            own, as `base_2_steps` and so on. A search has an option of its own.
        gallery: prompts, spread over the categories, of which every method's first image is kept for the report.
        category: field of the test prompts' rows that results are grouped by, in lower case, like `challenge` of
            PartiPrompts; "file" for the file or set that a prompt is from, like hpdv2/anime. If not given, the first of
            tag, category, style and challenge that a row has; for rows without, where there are several files, those.
            A comparison that is there can be grouped anew without measuring: give it the same `--run.name`.

    Raises:
        ValueError: if a search has the name of another method, or one that no file can have, or a number is too small.
    """

    searches: dict[str, Search | None] = field(default_factory=dict)
    finetune: str | None = None
    steps: list[int] | None = None
    gallery: int = 48
    category: str | None = None

    def __post_init__(self) -> None:
        for name in self.searches:
            if _TAKEN.fullmatch(name) or name in ("", ".", "..") or Path(name).name != name:
                raise ValueError(
                    f"comparison.searches has {name!r}, which cannot name a search: it is the key in results.json and "
                    "a file's name; base, hypernetwork and finetune are taken, and so are names with @."
                )
        if any(steps < 1 for steps in self.steps or []):
            raise ValueError(f"comparison.steps must be at least 1 each, not {self.steps}.")
        if self.gallery < 0:
            raise ValueError(f"comparison.gallery must not be negative, but is {self.gallery}.")

    def more_steps(self, own: int) -> list[int]:
        """The numbers of steps besides the generator's own, in ascending order."""
        return sorted({*(self.steps or [])} - {own})


def name_at(name: str, steps: int) -> str:
    """The key in `results.json` of a method at a number of steps that is not the generator's own."""
    return f"{name}_{steps}_step" + ("s" if steps > 1 else "")
