"""Runs an engine: pinned host buffers, one stream, and a CUDA graph for each batch bucket, recorded when it
is first needed.
"""

from __future__ import annotations

from threading import Lock
from typing import Any

from lfdeploy.backends.base import Floats, Source, checked, output_names
from lfdeploy.backends.buckets import bucket, cut, fill
from lfdeploy.backends.trt import INVALID, invalid, load, log_to
from lfdeploy.console import say
from lfdeploy.devices import gpus
from lfdeploy.errors import LfdeployError
from lfdeploy.images import Pixels


class TrtSession:
    """An opened engine; buffers are torch tensors. Needs a GPU. One call at a time, from any thread."""

    def __init__(self, package: str, source: Source) -> None:
        import torch

        self.torch, self.manifest, self.backend = torch, source.manifest, package
        self.messages: list[str] = []
        self.trt = load(package)
        blob = source.file.read_bytes()
        faults = invalid(self.trt, blob)
        self.runtime = self.trt.Runtime(log_to(self.trt, self.messages))
        told = source.manifest["engine"]
        # our own file: its hash was checked
        self.runtime.engine_host_code_allowed = bool(told.get("portable"))
        self.engine = None if faults else self.runtime.deserialize_cuda_engine(blob)
        if self.engine is None:
            why = [INVALID.get(fault, fault) for fault in faults] or [*self.messages, "no reason given"][:1]
            raise LfdeployError(_refusal(package, str(self.trt.__version__), told, faults, "; ".join(why)))
        self.most, self.lock = int(source.manifest["batch"]["max"]), Lock()
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.ready: dict[int, _Bucket] = {}
        self.device = f"cuda ({gpus()[0].name})"

    def __call__(self, images: Pixels) -> tuple[Floats, Floats]:
        """Logits and probabilities."""
        found = self.named(images)
        return found["logits"], found["probabilities"]

    def named(self, images: Pixels) -> dict[str, Floats]:
        """Every output."""
        images = checked(images, self.manifest)
        size = bucket(len(images), self.most)
        with self.lock, self.torch.cuda.stream(self.stream):
            if size not in self.ready:
                self.ready[size] = _Bucket(self, (size, *images.shape[1:]))
            return self.ready[size](images)


class _Bucket:
    """One batch size: a context, its buffers, and the recorded graph, or the reason why there is none."""

    def __init__(self, session: TrtSession, shape: tuple[int, ...]) -> None:
        torch, self.session = session.torch, session
        self.context = _context(session.trt, session.engine)
        if self.context is None or not self.context.set_input_shape("images", shape):
            raise LfdeployError(
                f"the engine refuses the shape {shape}: {(session.messages or ['no reason given'])[-1]}"
            )
        self.host = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        self.pixels = torch.empty(shape, dtype=torch.uint8, device="cuda")
        self.names = output_names(session.manifest)
        sizes = [tuple(self.context.get_tensor_shape(name)) for name in self.names]
        self.answers = [torch.empty(size, dtype=torch.float32, device="cuda") for size in sizes]
        self.answers_host = [torch.empty(size, dtype=torch.float32, pin_memory=True) for size in sizes]
        for name, memory in zip(("images", *self.names), (self.pixels, *self.answers), strict=True):
            self.context.set_tensor_address(name, memory.data_ptr())
        self.pixels.zero_()
        self.execute()  # the first call allocates, which a graph cannot hold
        session.stream.synchronize()
        self.graph, self.why = self.record(shape[0])

    def execute(self) -> None:
        """Enqueue the engine on the session's stream."""
        if not self.context.execute_async_v3(self.session.stream.cuda_stream):
            raise RuntimeError(f"the engine failed: {(self.session.messages or ['no reason given'])[-1]}")

    def record(self, size: int) -> tuple[Any, str]:
        """The graph and an empty string, or none and why not, which is also said on standard error."""
        torch, stream = self.session.torch, self.session.stream
        why = "the engine is not capturable"
        if not hasattr(self.context, "is_stream_capturable") or self.context.is_stream_capturable(
            stream.cuda_stream
        ):
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                    self.execute()
                return graph, ""
            except RuntimeError as error:
                why = str(error).strip().splitlines()[0]
        say(f"No CUDA graph for batches of {size}: {why}. They run without one, slower.")
        return None, why

    def __call__(self, images: Pixels) -> dict[str, Floats]:
        fill(self.host.numpy(), images)
        self.pixels.copy_(self.host, non_blocking=True)
        if self.graph is None:
            self.execute()
        else:
            self.graph.replay()
        for host, answer in zip(self.answers_host, self.answers, strict=True):
            host.copy_(answer, non_blocking=True)
        self.session.stream.synchronize()
        return {
            name: cut(host.numpy(), len(images))
            for name, host in zip(self.names, self.answers_host, strict=True)
        }


def _context(trt: Any, engine: Any) -> Any:
    """An execution context; RTX compiles its kernels for a shape at once, not behind the first calls, or a
    graph holds slow ones.
    """
    if not hasattr(trt, "DynamicShapesKernelSpecializationStrategy"):
        return engine.create_execution_context()
    settings = engine.create_runtime_config()
    settings.dynamic_shapes_kernel_specialization_strategy = (
        trt.DynamicShapesKernelSpecializationStrategy.EAGER
    )
    return engine.create_execution_context(settings)


def _refusal(package: str, version: str, built: dict[str, Any], faults: tuple[str, ...], why: str) -> str:
    gpu = gpus()[0]
    engine = "tensorrt" if "UNSUPPORTED_CC" in faults else package
    again = (
        "Export it again"
        if "MALFORMED_ENGINE" in faults
        else f"Rebuild it here with 'lfdeploy export' and --engine {engine}"
    )
    return (
        f"{package} {version} refuses the engine on {gpu.name} (compute capability {gpu.capability}); "
        f"it was built by {built['version']} "
        f"for {', '.join(built['compute_capabilities'])}: {why}. {again}."
    )
