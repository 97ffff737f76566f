"""Object detectors, which GenEval's verdicts are made with."""

from hn.evaluation.detectors.base import Detector, RowDetector, geneval_verdicts
from hn.evaluation.detectors.color import ClipColorClassifier
from hn.evaluation.detectors.geneval import GenEvalDetector
from hn.evaluation.detectors.mask2former import Mask2FormerDetector
from hn.evaluation.detectors.owlv2 import Owlv2Detector

__all__ = [
    "ClipColorClassifier",
    "Detector",
    "GenEvalDetector",
    "Mask2FormerDetector",
    "Owlv2Detector",
    "RowDetector",
    "geneval_verdicts",
]
