"""T2I-CompBench's metrics (arXiv 2307.06350): attributes by BLIP-VQA, spatial relations by a detector."""

from hn.evaluation.benchmarks.compbench.attributes import BlipVqaJudge
from hn.evaluation.benchmarks.compbench.spatial import SpatialJudge

__all__ = ["BlipVqaJudge", "SpatialJudge"]
