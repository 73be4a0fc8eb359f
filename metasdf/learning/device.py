"""Where tensors live: CPU, CUDA or MPS."""

import contextlib
import ctypes
import sys

import torch

from metasdf.errors import InputError

DEVICES = ("auto", "cpu", "cuda", "mps")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's mallopt


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


def keep_freed_memory() -> None:
    """Have this process keep what it frees, for its next tensors, where glibc manages memory.

    As it is, glibc asks the system anew for every tensor above 32 MB, and the system clears each of
    its pages: half of the time of fitting 32 shapes of 50,000 points. For programs, not for the
    library: it holds for the whole process.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            libc = ctypes.CDLL(None)
            libc.mallopt(M_MMAP_MAX, 0)
            libc.mallopt(M_TRIM_THRESHOLD, -1)


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished, so that a clock read next tells the truth."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
