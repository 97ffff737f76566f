"""Estimators of the reward's gradient with respect to the modulated noise."""

from hn.training.estimators.base import Estimator, ScoredBatch
from hn.training.estimators.pathwise import Pathwise
from hn.training.estimators.score_function import ScoreFunction

__all__ = ["Estimator", "Pathwise", "ScoreFunction", "ScoredBatch"]
