"""Where half precision is not enough."""

import torch
from torch import Tensor


def full_precision(tensor: Tensor) -> Tensor:
    """The tensor in float32 at least."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


_DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def parse_dtype(name: str) -> torch.dtype:
    """`torch.float32` for "float32"; likewise "float64", "bfloat16" and "float16".

    Raises:
        ValueError: for any other name.
    """
    if name not in _DTYPES:
        raise ValueError(f"Unknown dtype {name!r}; choose one of {', '.join(_DTYPES)}.")
    return _DTYPES[name]
