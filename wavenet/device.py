"""Where to compute."""

import torch


def find_device(name: str) -> torch.device:
    """The device of a name: "cpu", "cuda", "cuda:N", or "auto" for a GPU where there is one.

    Raises:
        ValueError: no device has this name, or there is no such GPU here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device is {name!r}; it must be auto, cpu, cuda or cuda:N") from None
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ValueError(f"device is {name!r}, and torch finds {count} GPUs here; use cpu or auto")
    return device
