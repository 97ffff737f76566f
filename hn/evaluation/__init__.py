"""Measures of a generator: GenEval verdicts, fidelity to a reference set, and the uncertainty of a difference."""
