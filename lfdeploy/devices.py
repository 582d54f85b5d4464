"""Which NVIDIA GPUs this machine has, asked of the driver itself: no torch, no CUDA toolkit, a few milliseconds."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import lru_cache

from lfdeploy.errors import LfdeployError


@dataclass(frozen=True)
class Gpu:
    """A device as the driver names it; ``capability`` like ``9.0``."""

    name: str
    capability: str


@lru_cache(maxsize=1)
def gpus() -> tuple[Gpu, ...]:
    """All visible GPUs; empty without a driver or a device."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ()
    count = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    found = []
    for index in range(count.value):
        device, name = ctypes.c_int(), ctypes.create_string_buffer(128)
        major, minor = ctypes.c_int(), ctypes.c_int()
        driver.cuDeviceGet(ctypes.byref(device), index)
        driver.cuDeviceGetName(name, 128, device)
        driver.cuDeviceGetAttribute(ctypes.byref(major), 75, device)  # compute capability, major
        driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)
        found.append(Gpu(name.value.decode(), f"{major.value}.{minor.value}"))
    return tuple(found)


def pick(asked: str) -> str:
    """``cpu`` or ``cuda`` for ``auto``, ``cpu``, ``cuda``. CUDA asked for and absent is an error."""
    if asked == "auto":
        return "cuda" if gpus() else "cpu"
    if asked == "cuda" and not gpus():
        raise LfdeployError("--device cuda: this machine shows no NVIDIA GPU. Use --device cpu, or check nvidia-smi.")
    return asked
