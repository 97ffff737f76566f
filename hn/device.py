"""Where to compute."""

import torch


def find_device(name: str = "auto") -> torch.device:
    """The device of a name, checked to be there.

    Args:
        name: "cpu", "cuda", "cuda:1", "mps", or "auto" for the GPU (CUDA) if there is one, else the CPU.

    Raises:
        ValueError: if there is no such device; says which there are.
    """
    there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    there += ["mps"] if torch.backends.mps.is_available() else []
    if name == "auto":
        return torch.device("cuda" if len(there) > 1 and there[1].startswith("cuda") else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if (
        device is None
        or not any(found.split(":")[0] == device.type for found in there)
        or (device.index is not None and str(device) not in there)
    ):
        raise ValueError(f"There is no device {name!r} here; choose auto or one of {', '.join(there)}.")
    return device
