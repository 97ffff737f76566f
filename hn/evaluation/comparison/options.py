"""What an experiment is compared with."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from hn.search.base import Search
from hn.search.warm_start import WarmStart

HYPERNETWORK, FINETUNE = "hypernetwork", "finetune"
_AT_STEPS = r"(_\d+_steps?)?"  # what `name_at` adds
_TAKEN = re.compile(rf"(base|{HYPERNETWORK}|{FINETUNE}){_AT_STEPS}|.*@.*")


@dataclass
class Comparison:
    """Baselines of `hn compare`.

    Args:
        searches: test-time searches on the trained reward, by their key in `results.json`, for example `best_of_50`;
            null leaves one out. One of `hn.search.warm_start.WarmStart` starts from the trained hypernetwork's noise,
            or from that of the entry of `trained` that its `start` names.
        finetune: configuration file of the direct fine-tune with the same budget; trained if it has no run yet.
        trained: more trained networks on the same generator, by their key in `results.json`: an experiment's file or
            name, whose newest run is taken, trained with that experiment's own budget if there is none; or folder or
            Hub id of saved weights, a hypernetwork's or a fine-tune's. null leaves one out.
        steps: numbers of sampling steps at which the base and all trained networks are measured besides the generator's
            own, as `base_2_steps` and so on. A search has an option of its own.
        gallery: prompts, spread over the categories, of which every method's first image is kept for the report.
        category: field of the test prompts' rows that results are grouped by, in lower case, like `challenge` of
            PartiPrompts; "file" for the file or set that a prompt is from, like hpdv2/anime. If not given, the first of
            tag, category, style and challenge that a row has; for rows without, where there are several files, those.
            A comparison that is there can be grouped anew without measuring: give it the same `--run.name`.

    Raises:
        ValueError: if a search or a trained network has the name of another method, or one that no file can have, or a
            number is too small.
    """

    searches: dict[str, Search | None] = field(default_factory=dict)
    finetune: str | None = None
    trained: dict[str, str | None] = field(default_factory=dict)
    steps: list[int] | None = None
    gallery: int = 48
    category: str | None = None

    def __post_init__(self) -> None:
        for name in self.searches:
            self._check_name(name, "searches", "search")
        for name in self.trained:
            self._check_name(name, "trained", "trained network")
        if any(steps < 1 for steps in self.steps or []):
            raise ValueError(f"comparison.steps must be at least 1 each, not {self.steps}.")
        if self.gallery < 0:
            raise ValueError(f"comparison.gallery must not be negative, but is {self.gallery}.")

    @property
    def networks(self) -> dict[str, str]:
        """The trained networks beside the experiment's own, by their key in `results.json`: experiments, or weights."""
        named = {FINETUNE: self.finetune, **self.trained}
        return {name: source for name, source in named.items() if source is not None}

    def more_steps(self, own: int) -> list[int]:
        """The numbers of steps besides the generator's own, in ascending order."""
        return sorted({*(self.steps or [])} - {own})

    def check_starts(self) -> None:
        """Refuse a warm start from a network that is not compared.

        Not in the constructor: an experiment that is trained for a comparison may inherit the comparison's searches.

        Raises:
            ValueError: names the search and what it may start from.
        """
        known = [HYPERNETWORK, *self.networks]
        for name, search in self.searches.items():
            if isinstance(search, WarmStart) and search.start not in known:
                raise ValueError(
                    f"comparison.searches.{name} starts from {search.start!r}, which is no trained network of the "
                    f"comparison ({', '.join(known)}): choose one of them, or add it to comparison.trained."
                )

    def _check_name(self, name: str, option: str, kind: str) -> None:
        """Raises:
        ValueError: if a search or a trained network (`kind`) cannot be called so.
        """
        if _TAKEN.fullmatch(name) or name in ("", ".", "..") or Path(name).name != name:
            raise ValueError(
                f"comparison.{option} has {name!r}, which cannot name a {kind}: it is the key in results.json and "
                "a file's name; base, hypernetwork and finetune are taken, and so are names with @."
            )
        if getattr(self, option)[name] is None:
            return
        for other, source in self.trained.items():
            is_itself = option == "trained" and other == name
            if source is not None and not is_itself and re.fullmatch(re.escape(other) + _AT_STEPS, name):
                raise ValueError(
                    f"comparison.{option} has {name!r}, which cannot name a {kind}: it is the key of the trained "
                    f"network {other!r}, or of that one at another number of steps."
                )


def name_at(name: str, steps: int) -> str:
    """The key in `results.json` of a method at a number of steps that is not the generator's own."""
    return f"{name}_{steps}_step" + ("s" if steps > 1 else "")
