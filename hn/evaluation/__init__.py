"""Measures of a generator: GenEval verdicts, distances to a reference set, and the uncertainty of a difference."""
