"""ONNX files through ONNX Runtime, on the CPU or a CUDA GPU; the provider in use is read back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from lfdeploy.backends.alike import SAME, tensor_difference
from lfdeploy.backends.base import Backend, Floats, Material, Session, Source, checked, output_names
from lfdeploy.backends.facts import Facts, Value
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


def read_facts(path: Path) -> Facts:
    """What an ONNX file says of itself. Raises ValueError or protobuf's errors for a damaged one."""
    import onnx

    model = onnx.load(path, load_external_data=False)

    def value(of: Any) -> Value:
        kind = of.type.tensor_type
        name = onnx.TensorProto.DataType.Name(kind.elem_type).lower()
        dims = kind.shape.dim
        return Value(
            of.name,
            bool(dims and dims[0].dim_param),
            tuple(d.dim_value for d in dims[1:]),
            {"float": "float32"}.get(name, name),
        )

    found = [json.loads(entry.value) for entry in model.metadata_props if entry.key == "lfdeploy"]
    told = found[0] if found and isinstance(found[0], dict) else {}
    return Facts(
        "ONNX file", tuple(map(value, model.graph.input)), tuple(map(value, model.graph.output)), told
    )


def difference(file: Path, again: Path, precision: str) -> str:
    """`onnx_difference` of two files."""
    import onnx

    return onnx_difference(onnx.load(file), onnx.load(again), precision)


def onnx_difference(found: Any, wanted: Any, precision: str) -> str:
    """Between two `onnx.ModelProto`."""
    from onnx import numpy_helper

    graphs = found.graph, wanted.graph
    if len(graphs[0].node) != len(graphs[1].node):
        return f"{len(graphs[0].node)} nodes where {len(graphs[1].node)} belong"
    for a, b in zip(graphs[0].node, graphs[1].node, strict=True):
        if (a.domain, a.op_type, list(a.input), list(a.output)) != (
            b.domain,
            b.op_type,
            list(b.input),
            list(b.output),
        ):
            return f"node {a.name or a.op_type} where {b.name or b.op_type} belongs"
        if a.SerializeToString(deterministic=True) != b.SerializeToString(deterministic=True):
            return f"attributes of {a.name}"
    tensors = [{t.name: numpy_helper.to_array(t) for t in graph.initializer} for graph in graphs]
    return (
        tensor_difference(tensors[0], tensors[1], precision)
        or _fields(found, wanted, ("graph",))
        or _fields(graphs[0], graphs[1], ("node", "initializer"))
        or SAME
    )


def _fields(found: Any, wanted: Any, but: tuple[str, ...]) -> str:
    """The first field of two protobuf messages that differs, ``but`` these; empty where none does."""
    sides = []
    for message in (found, wanted):
        rest = type(message)()
        rest.CopyFrom(message)
        for name in but:
            rest.ClearField(name)
        sides.append({field.name: value for field, value in rest.ListFields()})
    names = [name for name in sides[0].keys() | sides[1].keys() if sides[0].get(name) != sides[1].get(name)]
    return f"{min(names)} of the file" if names else ""


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
    cannot_run=_missing,
    build=_build,
    open=_open,
    facts=read_facts,
    difference=difference,
)
