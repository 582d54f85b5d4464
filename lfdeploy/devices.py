"""What this machine computes with: its NVIDIA GPUs, its CPU's instruction set, which library can use a GPU.

The driver itself is asked for GPUs: no torch, no CUDA toolkit, a few milliseconds. A library is asked by
using it.
"""

from __future__ import annotations

import ctypes
import platform
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from lfdeploy.console import say
from lfdeploy.errors import LfdeployError, choose

#: names of x86 instruction sets, the best first, and the flags of /proc/cpuinfo that together make them
INSTRUCTION_SETS = {
    "amx_int8": ("amx_int8",),
    "avx512_bf16": ("avx512_bf16", "avx512_vnni"),
    "avx512_vnni": ("avx512_vnni",),
    "avx_vnni": ("avx_vnni",),
    "avx512": ("avx512bw", "avx512dq", "avx512vl"),
    "avx2": ("avx2",),
}
#: those that add int8 products up in 32 bits; the other x86 ones stop at 16, where two products may not fit
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


def pick(asked: str, library: str = "torch") -> str:
    """``cpu`` or ``cuda`` for ``auto``, ``cpu``, ``cuda``: where a library (of `PROBES`) really computes.

    ``auto`` takes the CPU where the library cannot use the GPU, and says so once. CUDA asked for and not
    usable is an `LfdeployError`.
    """
    choose("device", str(asked), ["auto", "cpu", "cuda"])
    if asked == "cpu" or (asked == "auto" and not gpus()):
        return "cpu"
    if not gpus():
        raise LfdeployError(
            "--device cuda: this machine shows no NVIDIA GPU. Use --device cpu, or check nvidia-smi."
        )
    reason = unusable(library)
    if not reason:
        return "cuda"
    if asked == "cuda":
        raise LfdeployError(f"--device cuda: {reason}. Use --device cpu.")
    _say_cpu(reason)
    return "cpu"


@lru_cache
def _say_cpu(reason: str) -> None:
    """Say once in a process that ``auto`` means the CPU, and why."""
    say(f"Note: the CPU is used: {reason}.")


@lru_cache
def unusable(library: str) -> str:
    """Why a library cannot use the GPU that the driver shows, by trying; else, or without a GPU, empty."""
    if not gpus():
        return ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they say becomes the reason below
            PROBES[library]()
    except Exception as error:  # libraries raise many kinds
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = (lines or [type(error).__name__])[0].partition(". ")[0][:200].rstrip(".")
        return f"{library} cannot use the GPU that the driver shows ({gpus()[0].name}): {reason}"
    return ""


#: what ONNX Runtime's providers link
LIBRARIES = {"CUDA": "CUDA's libraries", "Tensorrt": "TensorRT 10's libraries"}


def _probe_torch() -> None:
    import torch

    if not torch.backends.cuda.is_built():  # type: ignore[no-untyped-call]
        raise RuntimeError(f"torch {torch.__version__} is built for the CPU alone")
    (torch.ones(2, device="cuda") + 1).sum().item()


def _probe_onnxruntime(provider: str = "CUDA") -> None:
    import onnx
    import onnxruntime as ort
    from onnx import helper

    name = f"{provider}ExecutionProvider"
    if name not in ort.get_available_providers():
        raise RuntimeError(f"onnxruntime {ort.__version__} is built without the {provider} provider")
    import torch  # noqa: F401  (brings the CUDA libraries that the provider links)

    ort.set_default_logger_severity(4)  # what does not load is said in one line
    ort.preload_dlls()
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=[name])
    if session.get_providers()[0] != name:
        raise RuntimeError(
            f"its {provider} provider does not load; the driver or {LIBRARIES[provider]} do not suit "
            "it or are not there"
        )
    session.run(None, {"x": [1.0]})


#: how to find out whether a library can use the GPU: a function that raises if it cannot
PROBES: dict[str, Callable[[], None]] = {
    "torch": _probe_torch,
    "onnxruntime": _probe_onnxruntime,
    "onnxruntime-tensorrt": lambda: _probe_onnxruntime("Tensorrt"),
}


@lru_cache(maxsize=1)
def instruction_set() -> str:
    """The best of this CPU: a key of `INSTRUCTION_SETS`, else the architecture, like ``aarch64``."""
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
