"""What an experiment is compared with."""

from __future__ import annotations

from dataclasses import dataclass, field

from hn.search.base import Search


@dataclass
class Comparison:
    """Baselines of `hn compare`.

    Args:
        searches: test-time searches on the trained reward, by their key in `results.json`, for example `best_of_50`;
            null leaves one out.
        finetune: configuration file of the direct fine-tune with the same budget; trained if it has no run yet.
    """

    searches: dict[str, Search | None] = field(default_factory=dict)
    finetune: str | None = None
