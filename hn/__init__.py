"""Noise hypernetworks for frozen few-step image generators (arXiv 2508.09968)."""

__version__ = "0.1.0"
