"""A search that waits, so that a comparison can be killed in the middle of it."""

import time
from pathlib import Path

from hn.search import BestOfN, SearchResult
from hn.search.base import SearchProblem


class GatedSearch(BestOfN):
    """Best of 2, once the file `gate` is there; says by a file beside it that it waits."""

    def __init__(self, gate: str):
        super().__init__(n=2)
        self.gate = Path(gate)

    def search(self, problem: SearchProblem) -> SearchResult:
        while not self.gate.exists():
            self.gate.with_suffix(".waits").touch()
            time.sleep(0.02)
        return super().search(problem)
