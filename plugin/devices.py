"""Devices by name, checked before anything is loaded for them."""

import torch


def device_named(device: str | torch.device | None) -> torch.device:
    """The device of that name, if this machine has it; None and `"auto"` are CUDA where there is one.

    Raises:
        ValueError: There is no such device here.
    """
    if device is None or device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # by backend and build of torch
        here = ["auto", "cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise ValueError(
            f"device {str(device)!r} is not on this machine; expected one of {', '.join(here)}"
        ) from error
    return target
