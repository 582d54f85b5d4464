"""Is a model file the one that belongs? ONNX models, OpenVINO IRs and exported programs, compared part
by part.

Graphs must be equal; numbers may differ by what another processor's rounding does. Each function gives the
first thing that differs, in words, or `SAME`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

SAME = "the same"
# How far a number may be from the one that belongs, as a part of it: a rounding or two; for int8 that of a
# range.
ROOM = {"fp32": 1e-5, "fp16": 1e-3, "bf16": 1e-2, "int8": 1e-3}
OF_LARGEST = 1e-6  # and as a part of its tensor's largest
WEIGHTS = 1e-3  # of a tensor's int8 weights, the part that may be rounded to the other side


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
        _tensors(tensors[0], tensors[1], precision)
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


def _tensors(found: dict[str, Any], wanted: dict[str, Any], precision: str) -> str:
    """The first named tensor that differs; empty where none does.

    One zero point of all may be rounded to the other side.
    """
    if found.keys() != wanted.keys():
        return f"tensor {min(found.keys() ^ wanted.keys())}"
    moved = 0
    for name, belongs in wanted.items():
        if found[name].shape != belongs.shape or found[name].dtype != belongs.dtype:
            return f"shape or type of {name}"
        if not close(found[name], belongs, precision):
            return f"values of {name}"
        moved += (
            belongs.size == 1
            and belongs.dtype in (np.int8, np.uint8)
            and bool((found[name] != belongs).any())
        )
        if moved > 1:
            return f"values of {name}"
    return ""


def close(x: Any, y: Any, precision: str) -> bool:
    """Whether a tensor (numpy) is the one that belongs, but for rounding; axes, shapes and flags exactly."""
    if y.dtype in (np.int64, np.bool_):
        return np.array_equal(x, y)
    value, belongs = x.astype(np.float64), y.astype(np.float64)
    apart = np.abs(value - belongs)
    if y.dtype in (np.int8, np.uint8):
        return bool((apart <= 1).all() and (apart > 0).sum() <= max(1, WEIGHTS * y.size))
    room = ROOM[precision] * np.abs(belongs) + OF_LARGEST * np.abs(belongs).max(initial=0.0)
    return bool((apart <= room + (1 if np.issubdtype(y.dtype, np.integer) else 0)).all())


def ir_difference(found: Any, wanted: Any, precision: str) -> str:
    """Between two `openvino.Model`."""
    sides = [model.get_ordered_ops() for model in (found, wanted)]
    if len(sides[0]) != len(sides[1]):
        return f"{len(sides[0])} operations where {len(sides[1])} belong"
    places = [{op.get_friendly_name(): i for i, op in enumerate(side)} for side in sides]
    tensors: list[dict[str, Any]] = [{}, {}]
    for ops in zip(*sides, strict=True):
        name = ops[1].get_friendly_name()
        kinds = [(op.get_type_info().version_id, op.get_type_name()) for op in ops]
        if kinds[0] != kinds[1]:
            return f"operation {ops[0].get_friendly_name()} where {name} belongs"
        inputs = [
            [_origin(value, place) for value in op.inputs()] for place, op in zip(places, ops, strict=True)
        ]
        if inputs[0] != inputs[1]:
            return f"inputs of {name}"
        if ops[0].get_type_name() == "Constant":
            for side, op in zip(tensors, ops, strict=True):
                side[name] = op.get_data()
        elif str(ops[0].get_attributes()) != str(ops[1].get_attributes()):
            return f"attributes of {name}"
    return _tensors(tensors[0], tensors[1], precision) or SAME


def _origin(value: Any, places: dict[str, int]) -> tuple[int, int]:
    """Which operation an input comes from, by its place in the order, and which of its outputs."""
    source = value.get_source_output()
    return places[source.get_node().get_friendly_name()], source.get_index()


def program_difference(found: Any, wanted: Any, precision: str) -> str:
    """Between two `torch.export.ExportedProgram`."""
    from torch.fx import GraphModule

    sides = found, wanted
    codes = [
        {name: m.code for name, m in side.graph_module.named_modules() if isinstance(m, GraphModule)}
        for side in sides
    ]
    if codes[0] != codes[1]:
        return "the program's code"
    if str(found.graph_signature) != str(wanted.graph_signature):
        return "inputs, outputs or weights of the program"
    if str(found.range_constraints) != str(wanted.range_constraints):
        return "the sizes that the program takes"
    tensors = [
        {name: t.detach().cpu().numpy() for name, t in {**side.state_dict, **side.constants}.items()}
        for side in sides
    ]
    return _tensors(tensors[0], tensors[1], precision) or SAME


def of_onnx(file: Path, again: Path, precision: str) -> str:
    """`onnx_difference` of two files."""
    import onnx

    return onnx_difference(onnx.load(file), onnx.load(again), precision)


def of_ir(file: Path, again: Path, precision: str) -> str:
    """`ir_difference` of two files."""
    from lfdeploy.backends.openvino import read_ir

    return ir_difference(read_ir(file), read_ir(again), precision)


def of_program(file: Path, again: Path, precision: str) -> str:
    """`program_difference` of two files."""
    from lfdeploy.backends.torch_export import read_program

    return program_difference(read_program(file)[0], read_program(again)[0], precision)
