"""T2I-CompBench's metrics (arXiv 2307.06350): attributes by BLIP-VQA, spatial relations by a detector."""

from hn.evaluation.benchmarks.compbench.attributes import BlipVqaMetric
from hn.evaluation.benchmarks.compbench.spatial import SpatialMetric

__all__ = ["BlipVqaMetric", "SpatialMetric"]
