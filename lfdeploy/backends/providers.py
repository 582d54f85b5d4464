"""ONNX Runtime's execution providers for NVIDIA GPUs, each a backend of its own that opens the
same model.onnx.

ONNX Runtime falls back to the CPU without a word: a provider whose library does not load, or that does not
take a node, is passed over. Here the first provider must be the one asked for, and one profiled call must
show every convolution and matrix product on it.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lfdeploy.backends import onnxruntime
from lfdeploy.backends.base import Backend, Floats, Session, Source, checked, output_names
from lfdeploy.backends.onnxruntime import CUDA, session_options
from lfdeploy.devices import gpus, unusable
from lfdeploy.errors import LfdeployError
from lfdeploy.images import Pixels

HEAVY = re.compile("Conv|Gemm|MatMul|Attention")
PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"


@dataclass(frozen=True)
class Provider:
    """An execution provider:

    ONNX Runtime's name for it, the package that brings it, and its options for a manifest.
    """

    name: str
    package: str
    options: Callable[[Mapping[str, Any]], dict[str, str]]


def _cuda(manifest: Mapping[str, Any]) -> dict[str, str]:
    return dict(CUDA)


def _tensorrt(manifest: Mapping[str, Any]) -> dict[str, str]:
    switches = {"fp16": "trt_fp16_enable", "bf16": "trt_bf16_enable", "int8": "trt_int8_enable"}
    switch = switches.get(str(manifest["precision"]))
    return _profile(manifest, "trt") | ({switch: "1"} if switch else {})


def _rtx(manifest: Mapping[str, Any]) -> dict[str, str]:
    return _profile(manifest, "nv")


def _profile(manifest: Mapping[str, Any], prefix: str) -> dict[str, str]:
    """The batch profile in the words of TensorRT's two providers, so that no engine is built anew for a
    batch size.
    """
    put = manifest["input"]
    picture = f"{put['height']}x{put['width']}x3"
    return {
        f"{prefix}_profile_{end}_shapes": f"{put['name']}:{manifest['batch'][end]}x{picture}"
        for end in ("min", "opt", "max")
    }


PROVIDERS = {
    "onnxruntime-cuda": Provider("CUDAExecutionProvider", "onnxruntime-gpu[cuda,cudnn]", _cuda),
    "onnxruntime-tensorrt": Provider("TensorrtExecutionProvider", "onnxruntime-gpu", _tensorrt),
    "onnxruntime-tensorrt-rtx": Provider(
        "NvTensorRTRTXExecutionProvider", "onnxruntime-ep-nv-tensorrt-rtx", _rtx
    ),
}


def placed(events: Iterable[Any]) -> dict[str, Counter[str]]:
    """Of a profile's events: how often each operator ran on each provider."""
    found: dict[str, Counter[str]] = {}
    for event in events:
        told = event.get("args", {}) if isinstance(event, dict) and event.get("cat") == "Node" else {}
        if told.get("provider"):
            found.setdefault(str(told["provider"]), Counter())[str(told.get("op_name"))] += 1
    return found


def require(found: Mapping[str, Mapping[str, int]], provider: str) -> None:
    """Raise `LfdeployError` unless the provider ran something, and no other ran a convolution or a
    matrix product.
    """
    if not found.get(provider):
        told = ", ".join(found) or "none"
        raise LfdeployError(
            f"onnxruntime ran no node on {provider}, which was asked for; providers that ran: {told}."
        )
    strays = [
        f"{sum(counts.values())} on {name}"
        for name, ops in found.items()
        if name != provider
        for counts in [_heavy(ops)]
        if counts
    ]
    if strays:
        raise LfdeployError(
            f"{provider} was asked for, and onnxruntime ran convolutions or matrix products elsewhere: "
            f"{', '.join(strays)}."
        )


def _heavy(operators: Mapping[str, int]) -> dict[str, int]:
    return {name: count for name, count in operators.items() if HEAVY.search(name)}


def session_on(file: Path, provider: str, options: Mapping[str, str], pixels: Pixels) -> Any:
    """An InferenceSession that is proven to execute on a provider, by one profiled call on uint8
    pixels (B, H, W, 3).

    Raises `LfdeployError` where the file does not load, or something else executes it.
    """
    import onnxruntime as ort

    ort.set_default_logger_severity(4)  # what does not load is said below, in one line
    settings = session_options()
    settings.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        settings.profile_file_prefix = str(Path(folder) / "profile")
        try:
            if provider in ort.get_available_providers():
                session = ort.InferenceSession(
                    str(file), settings, providers=[(provider, dict(options))], enable_fallback=0
                )
            else:
                settings.add_provider_for_devices(
                    [d for d in ort.get_ep_devices() if d.ep_name == provider], dict(options)
                )
                session = ort.InferenceSession(str(file), settings, enable_fallback=0)
        except Exception as error:  # onnxruntime raises many kinds
            raise LfdeployError(
                f"{file.name} cannot be opened with {provider}: {str(error).strip().splitlines()[0][:200]}"
            ) from None
        got = session.get_providers()[0]
        if got != provider:
            raise LfdeployError(
                f"onnxruntime gave {got} where {provider} was asked for: its libraries do not load. "
                "See: lfdeploy doctor"
            )
        session.run(None, {session.get_inputs()[0].name: pixels})
        require(placed(json.loads(Path(session.end_profiling()).read_text())), provider)
    return session


class ProviderSession:
    """A model on the one provider that was asked for, proven."""

    def __init__(self, backend: str, source: Source, device: str) -> None:
        row = PROVIDERS[backend]
        reason = cannot_run(backend)
        if reason or device == "cpu":
            raise LfdeployError(
                reason
                or f"{backend} runs on a GPU; --device cpu has no meaning here. Use --backend onnxruntime."
            )
        import onnxruntime as ort
        import torch  # noqa: F401  (brings the CUDA libraries that the providers link)

        ort.preload_dlls()
        if row.name not in ort.get_available_providers():
            _register()
        self.manifest, self.backend = source.manifest, backend
        put = source.manifest["input"]
        blank = np.zeros((1, put["height"], put["width"], 3), np.uint8)
        self.session = session_on(source.file, row.name, row.options(source.manifest), blank)
        self.device = f"cuda ({gpus()[0].name})"

    def __call__(self, images: Pixels) -> tuple[Floats, Floats]:
        """Logits and probabilities."""
        found = self.named(images)
        return found["logits"], found["probabilities"]

    def named(self, images: Pixels) -> dict[str, Floats]:
        """Every output."""
        names, feed = (
            output_names(self.manifest),
            {self.manifest["input"]["name"]: checked(images, self.manifest)},
        )
        return dict(zip(names, self.session.run(names, feed), strict=True))


def _register() -> None:
    """Make the RTX plugin known to ONNX Runtime, once in a process."""
    import importlib

    import onnxruntime as ort

    plugin = importlib.import_module(PLUGIN)
    if plugin.get_ep_name() not in {device.ep_name for device in ort.get_ep_devices()}:
        ort.register_execution_provider_library(plugin.get_ep_name(), plugin.get_library_path())


def missing(backend: str) -> str:
    """Why this onnxruntime has not the provider, or an empty string.

    That it has it does not say that it works.
    """
    from importlib.util import find_spec

    row = PROVIDERS[backend]
    if not find_spec("onnxruntime"):
        return f"onnxruntime is not installed. Run: pip install '{row.package}'"
    import onnxruntime as ort

    if row.name in ort.get_available_providers() or (
        row.package == "onnxruntime-ep-nv-tensorrt-rtx" and find_spec(PLUGIN)
    ):
        return ""
    return f"onnxruntime {ort.__version__} has no {row.name}. Run: pip install '{row.package}'"


def cannot_run(backend: str) -> str:
    """Why nothing runs on the provider here, or an empty string."""
    if not gpus():
        return f"this machine has no NVIDIA GPU, and {PROVIDERS[backend].name} runs on nothing else"
    library = {"onnxruntime-tensorrt": "onnxruntime-tensorrt", "onnxruntime-tensorrt-rtx": "torch"}.get(
        backend, "onnxruntime"
    )
    return missing(backend) or unusable(library)


def backend(name: str) -> Backend:
    """The table's row for one provider."""

    def open_(source: Source, device: str) -> Session:
        return ProviderSession(name, source, device)

    return Backend(
        about=f"ONNX Runtime, {PROVIDERS[name].name}, every layer proven to be on it",
        format="onnx",
        file="model.onnx",
        missing=lambda: missing(name),
        cannot_run=lambda: cannot_run(name),
        build=None,
        open=open_,
        facts=onnxruntime.read_facts,
        difference=onnxruntime.difference,
    )
