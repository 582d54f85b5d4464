"""Parses an ONNX file and builds an engine, in a process of its own: a second build in one process gives
other bytes.

TensorRT-RTX numbers tensors in the order of its threads and of their addresses. So its process has one core,
addresses that are not randomised, file names without a folder and next to no environment: the same
installation then builds the same bytes.

The engine is kept only when its convolutions and matrix products compute in the precision that was asked for.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

from lfdeploy.backends import trt_layers
from lfdeploy.backends.trt import load, log_to
from lfdeploy.devices import gpus
from lfdeploy.errors import LfdeployError

NO_RANDOM_ADDRESSES = 0x0040000  # ADDR_NO_RANDOMIZE of personality(2)
KEPT = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "CUDA_VISIBLE_DEVICES")  # of the environment
RTX_DEFAULT = (
    "8.0",
    "8.6",
    "8.9",
    "12.0",
)  # and later: NVIDIA's promise for an engine without named capabilities


def build_here(
    package: str, onnx: Path, out: Path, profile: tuple[int, int, int], precision: str, portable: bool = False
) -> dict[str, Any]:
    """Parse, build, prove and write an engine in this process; what was set is read back for the manifest.

    Raises `LfdeployError` for a file that does not parse or build, for a precision that was not achieved, and
    for ``portable`` where the package cannot.
    """
    trt = load(package)
    messages: list[str] = []
    logger = log_to(trt, messages)
    builder = trt.Builder(logger)
    if package == "tensorrt-rtx":
        builder.max_threads = 1
    network = parsed(trt, builder, logger, package, onnx, messages)
    layers, proof = trt_layers.of_network(network), "network"
    trt_layers.require(layers, precision, proof)
    config = configured(trt, builder, network, package, profile, messages)
    if portable:
        make_portable(trt, config, package)
    measured = package == "tensorrt" and gpus()
    timings = timing_file(trt.__version__, gpus()[0].name, portable) if measured else None
    known = remember(config, timings) if timings else None
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise LfdeployError(f"{package} cannot build the engine: {_last(messages)}")
    blob = bytes(plan)
    if timings:
        keep(config, timings)
    if gpus():
        tensor, runtime = network.get_input(0), trt.Runtime(logger)
        runtime.engine_host_code_allowed = portable  # it brings a runtime of its own
        found = trt_layers.inspected(trt, runtime, blob, (profile[1], *list(tensor.shape)[1:]), tensor.name)
        if any(kind in found for kind in trt_layers.KINDS):
            layers, proof = found, "inspector"
            trt_layers.require(layers, precision, proof)
    out.write_bytes(blob)
    own = [gpu.capability for gpu in gpus()[:1]]
    return {
        "package": package,
        "version": trt.__version__,
        "compute_capabilities": own if package == "tensorrt" else list(RTX_DEFAULT),
        "strongly_typed": True,
        "tf32": hasattr(trt.BuilderFlag, "TF32") and bool(config.get_flag(trt.BuilderFlag.TF32)),
        "portable": portable,
        "timing_cache": known,
        "layers": layers,
        "proof": proof,
    }


def _last(messages: list[str]) -> str:
    return messages[-1] if messages else "no reason given"


def parsed(trt: Any, builder: Any, logger: Any, package: str, onnx: Path, messages: list[str]) -> Any:
    """The network of an ONNX file, strongly typed; `LfdeployError` with the parser's reason."""
    flags = trt.NetworkDefinitionCreationFlag
    typed = 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0
    network = builder.create_network(typed)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx)):
        faults = [parser.get_error(i).desc() for i in range(parser.num_errors)] or messages
        why = faults[0] if faults else "no reason given"
        raise LfdeployError(f"{package} cannot parse the ONNX file: {why}")
    return network


def configured(
    trt: Any, builder: Any, network: Any, package: str, profile: tuple[int, int, int], messages: list[str]
) -> Any:
    """The builder's settings: 1 GiB to work in, no TF32, one batch profile, layers that can be inspected."""
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 1 << 30)
    if hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)  # fp32 means fp32
    shapes = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shapes.set_shape(tensor.name, *[(n, *list(tensor.shape)[1:]) for n in profile])
    if config.add_optimization_profile(shapes) < 0:
        raise LfdeployError(f"{package} rejects the batch profile {profile}: {_last(messages)}")
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    return config


def make_portable(trt: Any, config: Any, package: str) -> None:
    """Ask for an engine that runs on every GPU from Ampere on and under later versions; `LfdeployError` if it
    is not granted.
    """
    for owner, name in ((trt, "HardwareCompatibilityLevel"), (trt.BuilderFlag, "VERSION_COMPATIBLE")):
        if not hasattr(owner, name):
            raise LfdeployError(f"--portable: {package} {trt.__version__} has no {name}; drop --portable.")
    config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    got = config.hardware_compatibility_level
    if got != trt.HardwareCompatibilityLevel.AMPERE_PLUS or not config.get_flag(
        trt.BuilderFlag.VERSION_COMPATIBLE
    ):
        raise LfdeployError(
            f"--portable: {package} {trt.__version__} gives hardware compatibility {got.name} only; "
            "drop --portable."
        )


def timing_file(version: str, gpu: str, portable: bool) -> Path:
    """Where tactic timings of one TensorRT version on one kind of GPU are kept: a file in the user's
    cache directory.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = re.sub("[^a-z0-9.]+", "-", f"{version} {gpu}{' portable' if portable else ''}".lower())
    return home / "lfdeploy" / f"tensorrt-{name}.timing"


def remember(config: Any, file: Path) -> bool:
    """Give the builder what earlier builds measured; False where there was nothing that it accepts."""
    kept = file.read_bytes() if file.is_file() else b""
    cache = config.create_timing_cache(kept) if kept else None
    if cache is not None and config.set_timing_cache(cache, False):
        return True
    config.set_timing_cache(config.create_timing_cache(b""), False)
    return False


def keep(config: Any, file: Path) -> None:
    """Write down, by one rename, what the builder has measured."""
    cache = config.get_timing_cache()
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.{secrets.token_hex(4)}")
    part.write_bytes(bytes(cache.serialize()))
    os.replace(part, file)


def build(
    package: str, onnx: Path, out: Path, profile: tuple[int, int, int], precision: str, portable: bool = False
) -> dict[str, Any]:
    """`build_here` in a process of its own."""
    load(package)
    folder = out.resolve().parent
    order = json.dumps(
        [package, os.path.relpath(onnx.resolve(), folder), out.name, profile, precision, portable]
    )
    command = [sys.executable, "-P", "-m", "lfdeploy.backends.trt_build", order]
    env = {key: value for key, value in os.environ.items() if package != "tensorrt-rtx" or key in KEPT}
    if "PYTHONPATH" in env:  # the process starts in another folder
        env["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, env["PYTHONPATH"].split(os.pathsep)))
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=env)
    if done.returncode != 0:
        raise LfdeployError(
            (done.stderr.strip().splitlines() or ["the engine builder died without a word"])[-1]
        )
    told: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return told


def settle() -> None:
    """Begin this program anew with one core and fixed addresses; its last argument then says whether both
    were granted.
    """
    fixed = ctypes.CDLL(None).personality(NO_RANDOM_ADDRESSES) != -1  # containers may forbid it
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.execve(
        sys.executable,
        [sys.executable, *sys.orig_argv[1:], str(int(fixed))],
        os.environ | {"PYTHONHASHSEED": "0"},
    )


def main() -> None:
    """The process: arguments of `build_here` as JSON on the command line; its answer, or one line on
    standard error.
    """
    package, onnx, out, profile, precision, portable = json.loads(sys.argv[1])
    if package == "tensorrt-rtx" and len(sys.argv) == 2:
        settle()
    try:
        told = build_here(package, Path(onnx), Path(out), tuple(profile), precision, portable)
    except LfdeployError as problem:
        sys.exit(str(problem))
    print(json.dumps(told | {"repeatable": sys.argv[2:] == ["1"]}))


if __name__ == "__main__":
    main()
