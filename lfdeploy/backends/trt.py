"""TensorRT and TensorRT-RTX by the same code: the package is a value, both may be open in one process.

Networks are strongly typed, so precision is a property of the ONNX file. What differs between packages and
versions is asked by attribute, never by version. RTX builds without a GPU; running needs one.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from lfdeploy.backends.base import Backend, Floats, Session, Source, checked
from lfdeploy.devices import gpus
from lfdeploy.errors import LfdeployError
from lfdeploy.images import Pixels

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
OLDEST = (10, 12)  # from here on strong typing is complete


def load(package: str) -> Any:
    """The package's module, with a Builder. Raises `LfdeployError` with what to install."""
    try:
        module = importlib.import_module(MODULES[package])
        version = tuple(int(part) for part in module.__version__.split(".")[:2])
    except (ImportError, OSError, RuntimeError, AttributeError):
        extra = "lfdeploy[tensorrt]" if package == "tensorrt" else "tensorrt-rtx"
        raise LfdeployError(f"{package} is not installed. Run: pip install '{extra}'") from None
    if not hasattr(module, "Builder"):
        raise LfdeployError(f"{package} {module.__version__} has no Builder; reinstall it.")
    if package == "tensorrt" and version < OLDEST:
        raise LfdeployError(f"tensorrt {module.__version__} is too old; 10.12 or newer is needed.")
    return module


def _logger(trt: Any, messages: list[str]) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                messages.append(text)

    return Logger()


def build_here(package: str, onnx: Path, out: Path, profile: tuple[int, int, int]) -> dict[str, Any]:
    """Parse, build and write an engine in this process. `build` does it in a process of its own."""
    trt = load(package)
    messages: list[str] = []
    logger = _logger(trt, messages)
    builder = trt.Builder(logger)
    flags = trt.NetworkDefinitionCreationFlag
    network = builder.create_network(1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx)):
        faults = [parser.get_error(i).desc() for i in range(parser.num_errors)] or messages
        raise LfdeployError(f"{package} cannot parse the ONNX file: {faults[0] if faults else 'no reason given'}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 1 << 30)
    if hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)  # fp32 means fp32
    shapes = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shapes.set_shape(tensor.name, *[(n, *list(tensor.shape)[1:]) for n in profile])
    if config.add_optimization_profile(shapes) < 0:
        raise LfdeployError(f"{package} rejects the batch profile {profile}: {messages[-1:] or 'no reason given'}")
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise LfdeployError(f"{package} cannot build the engine: {messages[-1] if messages else 'no reason given'}")
    out.write_bytes(bytes(plan))
    here = [gpu.capability for gpu in gpus()[:1]]
    return {
        "package": package,
        "version": trt.__version__,
        "compute_capabilities": here if package == "tensorrt" else ["8.0", "8.6", "8.9", "12.0"],
        "strongly_typed": True,
        "tf32": False,
    }


def build(package: str, onnx: Path, out: Path, profile: tuple[int, int, int]) -> dict[str, Any]:
    """Build an engine file in a process of its own and return what the manifest says of it."""
    load(package)
    command = [sys.executable, "-P", "-m", "lfdeploy.backends.trt", package, str(onnx), str(out), json.dumps(profile)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LfdeployError((done.stderr.strip().splitlines() or ["the engine builder died without a word"])[-1])
    told: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return told


class TrtSession:
    """An engine with one execution context on its own stream; buffers are torch tensors. Needs a GPU."""

    def __init__(self, package: str, source: Source, device: str) -> None:
        reason = cannot_run(package)
        if reason or device == "cpu":
            raise LfdeployError(reason or f"{package} engines run on a GPU; --device cpu has no meaning here.")
        import torch

        self.torch, self.manifest, self.backend = torch, source.manifest, package
        self.messages: list[str] = []
        trt = load(package)
        self.runtime = trt.Runtime(_logger(trt, self.messages))
        self.engine = self.runtime.deserialize_cuda_engine(source.file.read_bytes())
        if self.engine is None:
            why = self.messages[-1] if self.messages else "the package gives no reason"
            built, gpu = source.manifest["engine"], gpus()[0]
            raise LfdeployError(
                f"{package} {trt.__version__} refuses the engine on {gpu.name} (compute capability {gpu.capability}); it was "
                f"built by {built['version']} for {', '.join(built['compute_capabilities'])}: {why}. Rebuild it here with "
                f"'lfdeploy export' and --engine tensorrt."
            )
        self.context, self.stream = self.engine.create_execution_context(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.device = f"cuda ({gpus()[0].name})"

    def __call__(self, images: Pixels) -> tuple[Floats, Floats]:
        """Logits and probabilities."""
        torch = self.torch
        x = torch.from_numpy(checked(images, self.manifest)).cuda()
        if not self.context.set_input_shape("images", tuple(x.shape)):
            raise ValueError(f"the engine refuses the shape {tuple(x.shape)}")
        outputs = [torch.empty(tuple(self.context.get_tensor_shape(n)), dtype=torch.float32, device="cuda") for n in OUTPUTS]
        self.context.set_tensor_address("images", x.data_ptr())
        for name, tensor in zip(OUTPUTS, outputs, strict=True):
            self.context.set_tensor_address(name, tensor.data_ptr())
        self.stream.wait_stream(torch.cuda.current_stream())
        if not self.context.execute_async_v3(self.stream.cuda_stream):
            raise RuntimeError(f"the engine failed: {self.messages[-1:]}")
        self.stream.synchronize()
        return outputs[0].cpu().numpy(), outputs[1].cpu().numpy()


OUTPUTS = ("logits", "probabilities")


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
    return missing(package)


def backend(package: str) -> Backend:
    """The table's row for one package."""

    def open_(source: Source, device: str) -> Session:
        return TrtSession(package, source, device)

    return Backend(
        about="TensorRT, built on the GPU it will run on" if package == "tensorrt" else "TensorRT-RTX, builds without a GPU",
        format="trt",
        file="model.engine",
        missing=lambda: missing(package),
        cannot_run=lambda: cannot_run(package),
        build=lambda material, out: build(package, material.onnx, out, material.profile),
        open=open_,
    )


if __name__ == "__main__":
    try:
        told = build_here(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), tuple(json.loads(sys.argv[4])))
    except LfdeployError as problem:
        sys.exit(str(problem))
    print(json.dumps(told))
