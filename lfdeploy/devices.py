"""What this machine computes with: its NVIDIA GPUs, asked of the driver itself (no torch, no CUDA toolkit, a few
milliseconds), and the instruction set of its CPU."""

from __future__ import annotations

import ctypes
import platform
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from lfdeploy.errors import LfdeployError

#: names of x86 instruction sets, the best first, and the flags of /proc/cpuinfo that together make them
INSTRUCTION_SETS = {
    "amx_int8": ("amx_int8",),
    "avx512_bf16": ("avx512_bf16", "avx512_vnni"),
    "avx512_vnni": ("avx512_vnni",),
    "avx_vnni": ("avx_vnni",),
    "avx512": ("avx512bw", "avx512dq", "avx512vl"),
    "avx2": ("avx2",),
}
#: those that add products of int8 numbers up in 32 bits; the other x86 ones stop at 16, where two products may not fit
EXACT_INT8 = ("amx_int8", "avx512_bf16", "avx512_vnni", "avx_vnni")


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


@lru_cache(maxsize=1)
def instruction_set() -> str:
    """The best instruction set of this machine's CPU: a key of `INSTRUCTION_SETS`, else the architecture (``aarch64``)."""
    try:
        return best_instruction_set(Path("/proc/cpuinfo").read_text())
    except OSError:
        return platform.machine()


def best_instruction_set(cpuinfo: str) -> str:
    """The key of `INSTRUCTION_SETS` for the text of /proc/cpuinfo: what all of its processors have."""
    lines = [line.partition(":")[2].split() for line in cpuinfo.splitlines() if line.startswith("flags")]
    if not lines:
        return platform.machine()
    flags = set(lines[0]).intersection(*lines[1:])
    return next((name for name, needed in INSTRUCTION_SETS.items() if flags.issuperset(needed)), "x86_64")


def int8_saturates() -> bool:
    """Whether this CPU's fast sum of uint8 x int8 products may overflow: x86 without VNNI or AMX."""
    name = instruction_set()
    return name not in EXACT_INT8 and name in (*INSTRUCTION_SETS, "x86_64", "AMD64")
