"""Test-time search for the noise whose image a reward likes best: the baselines a hypernetwork amortises."""

from hn.search.base import Search, SearchResult, TracePoint
from hn.search.best_of_n import BestOfN
from hn.search.budget import Budget
from hn.search.precondition import GradientTransform, WhiteNoiseProjection
from hn.search.reno import Reno
from hn.search.warm_start import WarmStart
from hn.search.zero_order import ZeroOrderSearch

__all__ = [
    "BestOfN",
    "Budget",
    "GradientTransform",
    "Reno",
    "Search",
    "SearchResult",
    "TracePoint",
    "WarmStart",
    "WhiteNoiseProjection",
    "ZeroOrderSearch",
]
