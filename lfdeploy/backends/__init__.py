"""The table of backends. To add one: a file here with a `Backend`, and a row below."""

from __future__ import annotations

from lfdeploy.backends import onnxruntime, pytorch, trt
from lfdeploy.backends.base import Backend, Session, Source
from lfdeploy.errors import LfdeployError

BACKENDS: dict[str, Backend] = {
    "pytorch": pytorch.BACKEND,
    "onnxruntime": onnxruntime.BACKEND,
    "tensorrt": trt.backend("tensorrt"),
    "tensorrt-rtx": trt.backend("tensorrt-rtx"),
}


def executes(manifest: dict[str, object]) -> str:
    """The name of the backend that serves an artifact."""
    engine = manifest.get("engine")
    if isinstance(engine, dict) and engine.get("package") in BACKENDS:
        return str(engine["package"])
    for name, backend in BACKENDS.items():
        if backend.format == manifest["format"]:
            return name
    raise LfdeployError(f"No backend executes the format '{manifest['format']}'.")


def builder(format: str, engine: str) -> str:
    """The backend that builds a format; for trt, ``auto`` means tensorrt where it can build, else tensorrt-rtx."""
    if format != "trt":
        if engine != "auto":
            raise LfdeployError(f"--engine {engine} has a meaning only with --format trt.")
        return next(name for name, backend in BACKENDS.items() if backend.format == format)
    name = engine if engine != "auto" else "tensorrt" if not BACKENDS["tensorrt"].missing() else "tensorrt-rtx"
    reason = BACKENDS[name].missing()
    if reason:
        raise LfdeployError(reason)
    return name


__all__ = ["BACKENDS", "Backend", "Session", "Source", "builder", "executes"]
