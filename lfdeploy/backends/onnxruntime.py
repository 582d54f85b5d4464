"""ONNX files through ONNX Runtime, on the CPU or a CUDA GPU; the provider in use is read back."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from lfdeploy.backends import alike, facts
from lfdeploy.backends.base import Backend, Floats, Material, Session, Source, checked, output_names
from lfdeploy.devices import int8_saturates, pick
from lfdeploy.errors import LfdeployError
from lfdeploy.images import Pixels

#: fp32 means fp32. ONNX Runtime plans every convolution anew whenever the batch's size changes: searching for
#: the best plan ("EXHAUSTIVE", its default) makes that take as long as hundreds of calls.
CUDA = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
PROVIDERS: dict[str, Any] = {
    "cpu": "CPUExecutionProvider",
    "cuda": ("CUDAExecutionProvider", CUDA),
}


def session_options(threads: int = 0) -> Any:
    """`onnxruntime.SessionOptions` for every session opened here: silent, and the same answers on every CPU.

    ``threads`` 0 leaves their number to onnxruntime.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    # idle threads leave the cores to others
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if int8_saturates():
        # Sums of uint8 x int8 products stop at 16 bits; with this they are uint8 x uint8: exact, but slower.
        # Not set elsewhere: onnxruntime would take the slow way with VNNI too, whose sums are exact anyway.
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


class OnnxSession:
    """One InferenceSession with exactly one provider; a provider that is not the one
    asked for is an error.
    """

    backend = "onnxruntime"

    def __init__(self, source: Source, device: str) -> None:
        import onnxruntime as ort

        self.manifest = source.manifest
        where = pick(device, "onnxruntime")
        if where == "cpu" and source.manifest.get("precision") == "bf16":
            raise LfdeployError(
                f"{source.file.name} is bf16, which onnxruntime's CPU provider has not. Use --device "
                "cuda, or export fp16."
            )
        if where == "cuda":
            import torch  # noqa: F401  (brings the CUDA libraries that the provider links)

            ort.preload_dlls()
        options = session_options(source.threads)
        wanted = PROVIDERS[where]
        try:
            self.session = ort.InferenceSession(str(source.file), options, providers=[wanted])
        except Exception as error:  # onnxruntime raises many kinds, all of them about this file
            raise LfdeployError(
                f"{source.file.name} cannot be loaded by onnxruntime: {_first_line(error)}"
            ) from None
        name = wanted if isinstance(wanted, str) else wanted[0]
        got = self.session.get_providers()[0]
        if got != name:
            raise LfdeployError(
                f"onnxruntime gave {got} where {name} was asked for. Check 'lfdeploy doctor', or use "
                "--device cpu."
            )
        self.device = where

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


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]


def _build(material: Material, out: Path) -> dict[str, Any]:
    shutil.copyfile(material.onnx, out)
    return {}


def _missing() -> str:
    from importlib.util import find_spec

    return (
        "" if find_spec("onnxruntime") else "onnxruntime is not installed. Run: pip install onnxruntime-gpu"
    )


def _open(source: Source, device: str) -> Session:
    return OnnxSession(source, device)


BACKEND = Backend(
    about="ONNX Runtime on CPU or CUDA",
    format="onnx",
    file="model.onnx",
    missing=_missing,
    cannot_run=lambda: "",
    build=_build,
    open=_open,
    facts=facts.of_onnx,
    difference=alike.of_onnx,
)
