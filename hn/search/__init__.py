"""Test-time search for the noise whose image a reward likes best: the baselines a hypernetwork amortises."""

from hn.search.base import Search, SearchResult, TracePoint
from hn.search.best_of_n import BestOfN
from hn.search.reno import Reno

__all__ = ["BestOfN", "Reno", "Search", "SearchResult", "TracePoint"]
