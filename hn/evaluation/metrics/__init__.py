"""Distances, diversity, intervals and diagnostics of measured images and noise."""
