"""Linear subspaces of the noise, in which a score-function estimator explores and a `SubspaceHypernet` acts."""

from hn.generators.subspaces.base import Subspace
from hn.generators.subspaces.low_frequency import LowFrequency
from hn.generators.subspaces.principal_components import PrincipalComponents
from hn.generators.subspaces.whole_space import WholeSpace

__all__ = ["LowFrequency", "PrincipalComponents", "Subspace", "WholeSpace"]
