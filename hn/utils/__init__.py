"""Helpers that import no other package of hn: files, weights, devices, text."""
