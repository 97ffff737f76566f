"""Scores of images that are on disk already."""
