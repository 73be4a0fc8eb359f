"""Where tensors live: CPU, CUDA or MPS."""

import torch

from metasdf.errors import InputError

DEVICES = ("auto", "cpu", "cuda", "mps")


def choose_device(name: str) -> torch.device:
    """The device of that name, "auto" being the first present of cuda, mps, cpu."""
    present = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(device for device, there in present.items() if there)
    kind, _, index = name.partition(":")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if not present.get(kind, False) or (index and not (index.isdecimal() and int(index) < count)):
        raise InputError(f"--device {name}: not available on this machine; try auto or cpu")
    return torch.device(name)


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished, so that a clock read next tells the truth."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
