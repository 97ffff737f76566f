"""Checks of a comparison."""

from __future__ import annotations


def check_comparison(is_evaluated: bool, is_finetune: bool) -> None:
    """Refuse a comparison without an `Evaluation` callback, or of an experiment that trains a fine-tune.

    Raises:
        ValueError: says what to do.
    """
    if not is_evaluated:
        raise ValueError("A comparison needs the callback hn.training.callbacks.evaluation.Evaluation.")
    if is_finetune:
        raise ValueError("This experiment trains a fine-tune; compare the hypernetwork experiment that names it.")
