"""Frozen few-step generators: noise and a prompt in, an image in [0, 1] out."""

from hn.generators.base import Conditioning, Generator
from hn.generators.pipeline import DiffusersGenerator
from hn.generators.pipeline_generator import PipelineGenerator

__all__ = ["Conditioning", "DiffusersGenerator", "Generator", "PipelineGenerator"]
