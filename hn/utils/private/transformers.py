"""Private names of transformers."""

from typing import TypeVar

from transformers import PreTrainedModel

M = TypeVar("M", bound=PreTrainedModel)


def without_other_weights(model_class: type[M], others: tuple[str, ...]) -> type[M]:
    """A subclass that loads its weights from a larger checkpoint without a warning about the others.

    Args:
        model_class: the class of the model.
        others: regular expressions for the names of the other weights.
    """
    return type(model_class.__name__, (model_class,), {"_keys_to_ignore_on_load_unexpected": others})
