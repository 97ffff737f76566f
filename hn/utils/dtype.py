"""Data types: at least single precision, and types by name."""

import torch
from torch import Tensor


def full_precision(tensor: Tensor) -> Tensor:
    """The tensor in float32, or in float64 if it is of that type."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


_DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def parse_dtype(name: str) -> torch.dtype:
    """The data type of a name: "float64", "float32", "bfloat16" or "float16".

    Raises:
        ValueError: for any other name.
    """
    if name not in _DTYPES:
        raise ValueError(f"Unknown dtype {name!r}; choose one of {', '.join(_DTYPES)}.")
    return _DTYPES[name]
