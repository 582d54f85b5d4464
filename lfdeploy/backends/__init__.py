"""The table of backends. To add one: a file here with a `Backend`, and a row below."""

from __future__ import annotations

from lfdeploy.backends import onnxruntime, openvino, providers, pytorch, torch_export, trt
from lfdeploy.backends.base import Backend, Material, Session, Source
from lfdeploy.errors import LfdeployError, ParityError, UsageError, choose

BACKENDS: dict[str, Backend] = {
    "pytorch": pytorch.BACKEND,
    "onnxruntime": onnxruntime.BACKEND,
    "onnxruntime-cuda": providers.backend("onnxruntime-cuda"),
    "onnxruntime-tensorrt": providers.backend("onnxruntime-tensorrt"),
    "onnxruntime-tensorrt-rtx": providers.backend("onnxruntime-tensorrt-rtx"),
    "tensorrt": trt.backend("tensorrt"),
    "tensorrt-rtx": trt.backend("tensorrt-rtx"),
    "openvino": openvino.BACKEND,
    "torch-export": torch_export.BACKEND,
}


def executes(manifest: dict[str, object]) -> str:
    """The name of the backend that serves an artifact."""
    engine = manifest.get("engine")
    built = [name for name, row in BACKENDS.items() if row.format == manifest["format"] and row.build]
    if isinstance(engine, dict) and engine.get("package") in built:
        return str(engine["package"])
    if not built:
        raise ParityError(
            f"stage file: no backend executes the format '{manifest['format']}'. Export it again."
        )
    return built[0]


def chosen(manifest: dict[str, object], asked: str) -> str:
    """`executes` for ``auto``, else the backend asked for: an error unless it opens the format and
    works here.
    """
    if asked == "auto":
        return executes(manifest)
    row = BACKENDS[choose("backend", asked, list(BACKENDS))]
    if row.format != manifest["format"]:
        able = [name for name, other in BACKENDS.items() if other.format == manifest["format"]]
        raise UsageError(
            f"--backend {asked} does not open {manifest['format']}; {', '.join(able)} "
            f"{'do' if len(able) > 1 else 'does'}."
        )
    if row.cannot_run():
        raise LfdeployError(f"--backend {asked}: {row.cannot_run()}.")
    return asked


def builder(format: str, engine: str, precision: str, portable: bool = False) -> str:
    """The backend that builds a format; trt's ``auto`` is tensorrt where that can build, else tensorrt-rtx.

    Raises `UsageError` for what no row has, and `LfdeployError` where its package is not installed.
    """
    built = {row.format: name for name, row in reversed(BACKENDS.items()) if row.build}
    name = built[choose("format", format, list(built)[::-1])]
    if format == "trt":
        here = "tensorrt-rtx" if BACKENDS["tensorrt"].missing() else "tensorrt"
        name = here if engine == "auto" else engine
    elif engine != "auto":
        raise UsageError(f"--engine {engine} has a meaning only with --format trt.")
    row = BACKENDS[name]
    if portable and name != "tensorrt":
        why = "it is for --format trt"
        if format == "trt":
            why = "its engines run on every GPU from Ampere on as they are"
        raise UsageError(f"--portable has no meaning for {name}: {why}. Drop --portable.")
    if row.missing():
        raise LfdeployError(row.missing())
    if precision not in row.precisions:
        able = [
            other
            for other in dict.fromkeys(b.format for b in BACKENDS.values() if b.build)
            if precision in _precisions(other)
        ]
        raise UsageError(
            f"--format {format} has no {precision}; it takes {', '.join(row.precisions)}. For "
            f"{precision}: --format {' or '.join(able)}."
        )
    return name


def _precisions(format: str) -> set[str]:
    return {
        precision
        for backend in BACKENDS.values()
        if backend.format == format
        for precision in backend.precisions
    }


__all__ = ["BACKENDS", "Backend", "Material", "Session", "Source", "builder", "chosen", "executes"]
