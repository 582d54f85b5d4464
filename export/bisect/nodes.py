"""The nodes of an ONNX model in an order that depends neither on names nor on the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

OUTPUT = "output "  # begins the name and the kind of the nodes that `mark_outputs` adds


@dataclass(frozen=True)
class Constant:
    """A named array: an initializer, or what a Constant or DequantizeLinear node makes of one."""

    name: str
    array: NDArray[Any]


@dataclass(frozen=True)
class Op:
    """A node. ``number`` is its place in the file; ``inputs`` has "" where a constant or nothing is read."""

    number: int
    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: Mapping[int, Constant]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Graph:
    """Nodes in canonical order without those that only quantise.

    ``served``: a tensor to its quantised self, where it has one.
    """

    ops: tuple[Op, ...]
    inputs: tuple[str, ...]
    served: Mapping[str, str]
    quantized: bool

    def makers(self) -> dict[str, int]:
        """Tensor to the index of the node that makes it."""
        return {tensor: index for index, op in enumerate(self.ops) for tensor in op.outputs if tensor}


def mark_outputs(proto: Any) -> None:
    """Append a node that reads each graph output, so that what lies behind the last layer is a node too."""
    from onnx import helper

    for value in proto.graph.output:
        proto.graph.node.append(
            helper.make_node("Identity", [value.name], [f"{value.name}/out"], name=OUTPUT + value.name)
        )


def read(proto: Any) -> Graph:
    """The nodes of a model whose outputs are marked."""
    from onnx import helper, numpy_helper

    constants = {t.name: Constant(t.name, numpy_helper.to_array(t)) for t in proto.graph.initializer}
    alias: dict[str, str] = {}
    served: dict[str, str] = {}
    opset = {entry.domain: entry.version for entry in proto.opset_import}
    found: list[Op] = []
    quantized = False
    for number, node in enumerate(proto.graph.node):
        if node.op_type == "Constant" and not node.domain:
            value = helper.get_attribute_value(node.attribute[0])
            array = numpy_helper.to_array(value) if node.attribute[0].name == "value" else np.asarray(value)
            constants[node.output[0]] = Constant(node.output[0], array)
        elif node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            quantized = True
            source = node.input[0]
            if source not in constants:
                alias[node.output[0]] = alias.get(source, source)
                if node.op_type == "DequantizeLinear":
                    served.setdefault(alias[node.output[0]], node.output[0])
            elif node.op_type == "DequantizeLinear" and constants[source].array.dtype.kind in "iu":
                constants[node.output[0]] = Constant(source, _dequantized(node, constants))
            else:
                constants[node.output[0]] = constants[source]
        else:
            read_ = tuple("" if name in constants else alias.get(name, name) for name in node.input)
            known = {place: constants[name] for place, name in enumerate(node.input) if name in constants}
            kind = (
                node.name
                if node.name.startswith(OUTPUT)
                else f"{node.domain}:{node.op_type}"
                if node.domain
                else node.op_type
            )
            found.append(
                Op(number, node.name, kind, read_, tuple(node.output), known, _attributes(node, opset))
            )
    return Graph(_canonical(found), tuple(value.name for value in proto.graph.input), served, quantized)


def _dequantized(node: Any, constants: Mapping[str, Constant]) -> NDArray[Any]:
    values = constants[node.input[0]].array.astype(np.float32)
    scale, zero = (
        constants[name].array.astype(np.float32) if name else np.float32(0)
        for name in (*node.input[1:3], "")[:2]
    )
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    if scale.ndim == 1 and values.ndim:
        form = [-1 if i == axis % values.ndim else 1 for i in range(values.ndim)]
        scale, zero = scale.reshape(form), zero.reshape(form) if zero.ndim else zero
    return (values - zero) * scale


def _attributes(node: Any, opset: Mapping[str, int]) -> dict[str, Any]:
    """Values by name, with the operator's defaults for those that are not written."""
    from onnx import defs, helper

    found = {}
    if defs.has(node.op_type, node.domain):
        schema = defs.get_schema(node.op_type, opset.get(node.domain, 1), node.domain)
        found = {
            n: helper.get_attribute_value(a.default_value)
            for n, a in schema.attributes.items()
            if a.default_value.type
        }
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        found[attribute.name] = value.SerializeToString() if hasattr(value, "SerializeToString") else value
    return {
        name: list(value) if not isinstance(value, (int, float, bytes, str)) else value
        for name, value in found.items()
    }


def _canonical(ops: Sequence[Op]) -> tuple[Op, ...]:
    """Topological, from the marked outputs backwards and along each node's inputs: independent of names and
    of the file's order.
    """
    maker = {tensor: op for op in ops for tensor in op.outputs}
    done: set[int] = set()
    order: list[Op] = []
    roots = sorted((op for op in ops if op.kind.startswith(OUTPUT)), key=lambda op: op.kind)
    for root in (*roots, *ops):
        stack = [(root, False)]
        while stack:
            op, ready = stack.pop()
            if ready:
                order.append(op)
            elif op.number not in done:
                done.add(op.number)
                stack.append((op, True))
                stack += [(maker[name], False) for name in reversed(op.inputs) if name in maker]
    return tuple(order)
