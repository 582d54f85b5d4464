"""What a model file says of itself, read without executing it: inputs, outputs, and the facts that were put into it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lfdeploy.backends import openvino, torch_export


@dataclass(frozen=True)
class Value:
    """An input or output: its name, whether the batch is free, the other sizes (0 where not fixed), a numpy-like type."""

    name: str
    free_batch: bool
    rest: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Facts:
    """A file's signature, and ``told``: what `lone_facts` put into it; empty where it says nothing readable."""

    kind: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    told: dict[str, Any]


def inside(path: Path) -> Facts | None:
    """The facts of a .onnx, .xml (OpenVINO IR) or .pt2 file; None for an engine, and for an IR where openvino is missing.

    Raises `LfdeployError` or ValueError for a file that is damaged.
    """
    read = {".onnx": _onnx, ".xml": _ir, ".pt2": _program}.get(path.suffix)
    if read is None or (read is _ir and openvino.BACKEND.missing()):
        return None
    return read(path)


def _onnx(path: Path) -> Facts:
    import onnx

    model = onnx.load(path, load_external_data=False)

    def value(of: Any) -> Value:
        kind = of.type.tensor_type
        name = onnx.TensorProto.DataType.Name(kind.elem_type).lower()
        dims = kind.shape.dim
        return Value(of.name, bool(dims and dims[0].dim_param), tuple(d.dim_value for d in dims[1:]), {"float": "float32"}.get(name, name))

    found = [json.loads(entry.value) for entry in model.metadata_props if entry.key == "lfdeploy"]
    told = found[0] if found and isinstance(found[0], dict) else {}
    return Facts("ONNX file", tuple(map(value, model.graph.input)), tuple(map(value, model.graph.output)), told)


def _ir(path: Path) -> Facts:
    model = openvino.read_ir(path)

    def value(of: Any) -> Value:
        names = sorted(of.get_names())
        dims = of.get_partial_shape()
        free = bool(len(dims)) and dims[0].is_dynamic
        rest = tuple(0 if d.is_dynamic else d.get_length() for d in list(dims)[1:])
        return Value("/".join(names), free, rest, of.get_element_type().to_dtype().name)

    return Facts("IR", tuple(map(value, model.inputs)), tuple(map(value, model.outputs)), openvino.told(model))


def _program(path: Path) -> Facts:
    from torch import SymInt

    program, told = torch_export.read_program(path)
    signature, nodes = program.graph_signature, {node.name: node for node in program.graph.nodes}

    def value(name: str, node: str) -> Value:
        tensor = nodes[node].meta["val"]
        free = bool(tensor.shape) and isinstance(tensor.shape[0], SymInt)
        rest = tuple(0 if isinstance(d, SymInt) else int(d) for d in tensor.shape[1:])
        return Value(name, free, rest, str(tensor.dtype).removeprefix("torch."))

    outputs = [str(name) for name in signature.user_outputs]
    names = [o["name"] for o in told.get("outputs", [])]  # a program's outputs are a tuple; what they are is told beside it
    if len(names) != len(outputs):
        names = outputs
    return Facts(
        "program", tuple(value(str(n), str(n)) for n in signature.user_inputs),
        tuple(value(name, node) for name, node in zip(names, outputs, strict=True)), told,
    )  # fmt: skip
