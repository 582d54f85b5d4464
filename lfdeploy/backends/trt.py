"""TensorRT and TensorRT-RTX by the same code: the package is a value, both may be open in one process.

Networks are strongly typed, so precision is a property of the ONNX file. What differs between packages and
versions is asked by attribute, never by version. RTX builds without a GPU; running needs one.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from lfdeploy.backends.base import Backend, Material, Session, Source
from lfdeploy.backends.facts import Facts, Value
from lfdeploy.devices import gpus, unusable
from lfdeploy.errors import LfdeployError

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
OLDEST = (10, 12)  # from here on strong typing is complete


def load(package: str) -> Any:
    """The package's module, with a Builder. Raises `LfdeployError` with what to install."""
    try:
        module = importlib.import_module(MODULES[package])
        version = tuple(int(part) for part in module.__version__.split(".")[:2])
    except (ImportError, OSError, RuntimeError, AttributeError):
        wanted = "'tensorrt>=10.12'" if package == "tensorrt" else "tensorrt-rtx"
        raise LfdeployError(f"{package} is not installed. Run: pip install {wanted}") from None
    if not hasattr(module, "Builder"):
        raise LfdeployError(f"{package} {module.__version__} has no Builder; reinstall it.")
    if package == "tensorrt" and version < OLDEST:
        raise LfdeployError(f"tensorrt {module.__version__} is too old; 10.12 or newer is needed.")
    return module


def log_to(trt: Any, messages: list[str]) -> Any:
    """A logger that appends errors to ``messages`` and prints nothing."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                messages.append(text)

    return Logger()


#: what a package says of an engine that it will not run, by the name in `EngineInvalidityDiagnostics`
INVALID = {
    "MALFORMED_ENGINE": "these bytes are no engine of this package: the file is damaged",
    "VERSION_MISMATCH": "another version of the package built it",
    "UNSUPPORTED_CC": "it was not built for this GPU's compute capability",
    "OLD_CUDA_DRIVER": "the NVIDIA driver is older than the engine needs",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is older than the engine needs",
    "INSUFFICIENT_GPU_MEMORY": "the GPU has too little memory for it",
    "CUDA_ERROR": "CUDA does not work here",
}


def invalid(trt: Any, blob: bytes) -> tuple[str, ...]:
    """Why the package will not run these bytes here (keys of `INVALID`), from their header alone; empty where
    it would, or cannot say.

    Only TensorRT-RTX offers this. Without a GPU it still tells what is no engine at all, and nothing else.
    """
    runtime = trt.Runtime(log_to(trt, []))
    if not hasattr(runtime, "get_engine_validity"):
        return ()
    verdict, bits = runtime.get_engine_validity(blob)
    if verdict != trt.EngineValidity.INVALID:
        return ()
    return tuple(name for name, bit in trt.EngineInvalidityDiagnostics.__members__.items() if int(bit) & bits)


def header_faults(package: str, file: Path) -> tuple[str, ...]:
    """`invalid` for a file, of which the first bytes are read; empty where the package is not installed."""
    try:
        trt = load(package)
    except LfdeployError:
        return ()
    with file.open("rb") as stream:
        return invalid(trt, stream.read(4096))


def missing(package: str) -> str:
    """Why the package cannot build here, or an empty string."""
    try:
        load(package)
    except LfdeployError as error:
        return str(error)
    if package == "tensorrt" and not gpus():
        return "tensorrt builds only where an NVIDIA GPU is present"
    return ""


def cannot_run(package: str) -> str:
    """Why engines of the package cannot run here, or an empty string."""
    if not gpus():
        return f"this machine has no NVIDIA GPU, and {package} engines run on nothing else"
    return missing(package) or no_kernels(package, gpus()[0].name, gpus()[0].capability) or unusable("torch")


def no_kernels(package: str, name: str, capability: str) -> str:
    """Why a package runs no engine at all on a GPU of this compute capability, or an empty string.

    TensorRT-RTX lists what it has kernels for, and data-centre GPUs are not there. What is newer may run.
    """
    members = getattr(load(package), "ComputeCapability", None)
    if package != "tensorrt-rtx" or members is None:
        return ""
    known = sorted(int(member.removeprefix("SM")) for member in members.__members__ if member[2:].isdigit())
    number = int(capability.replace(".", ""))
    if not known or number in known or number > known[-1]:
        return ""
    able = ", ".join(f"{code // 10}.{code % 10}" for code in known)
    return f"{package} has no kernels for {name} (compute capability {capability}), only for {able} and later"


def _build(package: str, material: Material, out: Path) -> dict[str, Any]:
    from lfdeploy.backends.trt_build import build

    return build(
        package, material.onnx, out, material.profile, str(material.facts["precision"]), material.portable
    )


def _open(package: str, source: Source, device: str) -> Session:
    reason = cannot_run(package)
    if reason or device == "cpu":
        raise LfdeployError(reason or f"{package} engines run on a GPU; --device cpu has no meaning here.")
    from lfdeploy.backends.trt_session import TrtSession

    return TrtSession(package, source)


def engine_facts(package: str, file: Path) -> Facts:
    """What an engine says of its inputs and outputs, on a machine with the GPU; of labels or a target it
    knows nothing.
    """
    trt = load(package)
    engine = trt.Runtime(log_to(trt, [])).deserialize_cuda_engine(file.read_bytes())
    if engine is None:
        raise LfdeployError(f"{package} cannot open {file.name} on this machine.")
    values: dict[bool, list[Value]] = {True: [], False: []}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        batch, *rest = (int(side) for side in engine.get_tensor_shape(name))
        dtype = engine.get_tensor_dtype(name).name.lower()
        dtype = {"float": "float32", "half": "float16"}.get(dtype, dtype)
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        values[is_input].append(Value(name, batch == -1, tuple(rest), dtype))
    return Facts("engine", tuple(values[True]), tuple(values[False]), None)


def backend(package: str) -> Backend:
    """The table's row for one package."""
    return Backend(
        about="TensorRT, built on the GPU it will run on"
        if package == "tensorrt"
        else "TensorRT-RTX, builds without a GPU",
        format="trt",
        file="model.engine",
        missing=lambda: missing(package),
        cannot_run=lambda: cannot_run(package),
        build=lambda material, out: _build(package, material, out),
        open=lambda source, device: _open(package, source, device),
        facts=lambda path: engine_facts(package, path),
        opaque="an engine is a compiled program, whose numbers nobody can read; the ONNX file it is built "
        "from is examined at export",
    )
