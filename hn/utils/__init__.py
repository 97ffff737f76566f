"""Helpers that know nothing of the other packages: files, weights, devices, text."""
