"""What an experiment is compared with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from hn.search.base import Search


@dataclass
class Comparison:
    """Baselines of `hn compare`.

    Args:
        searches: test-time searches on the trained reward, by their key in `results.json`, for example `best_of_50`;
            null leaves one out. One of `hn.search.warm_start.WarmStart` starts from the trained hypernetwork's noise.
        finetune: configuration file of the direct fine-tune with the same budget; trained if it has no run yet.

    Raises:
        ValueError: if a search has the name of another method, or one that no file can have.
    """

    searches: dict[str, Search | None] = field(default_factory=dict)
    finetune: str | None = None

    def __post_init__(self) -> None:
        for name in self.searches:
            if name in ("base", "hypernetwork", "finetune") or name in ("", ".", "..") or Path(name).name != name:
                raise ValueError(
                    f"comparison.searches has {name!r}, which cannot name a search: it is the key in results.json and "
                    "a file's name, and base, hypernetwork and finetune are taken."
                )
