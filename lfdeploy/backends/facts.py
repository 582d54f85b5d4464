"""What a model file says of itself, read without executing it: inputs, outputs, and the facts that were put
into it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Value:
    """An input or output: its name, whether the batch is free, the other sizes (0 where not fixed), a
    numpy-like type.
    """

    name: str
    free_batch: bool
    rest: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Facts:
    """A file's signature, and ``told``: what `lone_facts` put into it; empty where it says nothing readable.

    ``told`` is None for a format that cannot hold words of its own.
    """

    kind: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    told: dict[str, Any] | None


def of_onnx(path: Path) -> Facts:
    """Of an ONNX file. Raises ValueError or protobuf's errors for a damaged one."""
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


def of_ir(path: Path) -> Facts:
    """Of an OpenVINO IR. Raises `LfdeployError` for a damaged one, or without openvino."""
    from lfdeploy.backends import openvino

    model = openvino.read_ir(path)

    def value(of: Any) -> Value:
        names = sorted(of.get_names())
        dims = of.get_partial_shape()
        free = bool(len(dims)) and dims[0].is_dynamic
        rest = tuple(0 if d.is_dynamic else d.get_length() for d in list(dims)[1:])
        return Value("/".join(names), free, rest, of.get_element_type().to_dtype().name)

    return Facts(
        "IR", tuple(map(value, model.inputs)), tuple(map(value, model.outputs)), openvino.told(model)
    )


def of_program(path: Path) -> Facts:
    """Of a torch.export program. Raises `LfdeployError` for a damaged one."""
    from torch import SymInt

    from lfdeploy.backends import torch_export

    program, told = torch_export.read_program(path)
    signature, nodes = program.graph_signature, {node.name: node for node in program.graph.nodes}

    def value(name: str, node: str) -> Value:
        tensor = nodes[node].meta["val"]
        free = bool(tensor.shape) and isinstance(tensor.shape[0], SymInt)
        rest = tuple(0 if isinstance(d, SymInt) else int(d) for d in tensor.shape[1:])
        return Value(name, free, rest, str(tensor.dtype).removeprefix("torch."))

    outputs = [str(name) for name in signature.user_outputs]
    # a program's outputs are a tuple; what they are is told beside it
    names = [o["name"] for o in told.get("outputs", [])]
    if len(names) != len(outputs):
        names = outputs
    return Facts(
        "program", tuple(value(str(n), str(n)) for n in signature.user_inputs),
        tuple(value(name, node) for name, node in zip(names, outputs, strict=True)), told,
    )  # fmt: skip
