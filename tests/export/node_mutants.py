"""Single-node faults for bisection: for every Conv, Gemm, Relu and Add of a graph, one thing changed, each
with its node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

PLANTED = "planted"  # the name of an inserted node


@dataclass(frozen=True)
class Mutant:
    """``node``: the name that must be named, `PLANTED` for an inserted one."""

    name: str
    node: str
    change: Callable[[onnx.ModelProto], None]


def node_of(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(n for n in model.graph.node if n.name == name)


def edit(
    name: str, place: int, change: Callable[[np.ndarray], np.ndarray | None]
) -> Callable[[onnx.ModelProto], None]:
    """Change the initializer at one input of one node; a function that returns
    nothing changes it in place.
    """

    def mutate(model: onnx.ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if t.name == node_of(model, name).input[place])
        array = numpy_helper.to_array(tensor).copy()
        made = change(array)
        tensor.CopyFrom(
            numpy_helper.from_array(
                np.ascontiguousarray(array if made is None else made, array.dtype), tensor.name
            )
        )

    return mutate


def attribute(name: str, key: str, value: object) -> Callable[[onnx.ModelProto], None]:
    def mutate(model: onnx.ModelProto) -> None:
        node = node_of(model, name)
        kept = [a for a in node.attribute if a.name != key]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(key, value)])

    return mutate


def becomes(name: str, kind: str, inputs: int = 1, **attributes: object) -> Callable[[onnx.ModelProto], None]:
    def mutate(model: onnx.ModelProto) -> None:
        node = node_of(model, name)
        node.op_type = kind
        del node.input[inputs:], node.attribute[:]
        node.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())

    return mutate


def drop_input(name: str, place: int) -> Callable[[onnx.ModelProto], None]:
    return lambda model: node_of(model, name).input.__delitem__(place)


def rewire(name: str, place: int, tensor: str) -> Callable[[onnx.ModelProto], None]:
    return lambda model: node_of(model, name).input.__setitem__(place, tensor)


def remove(name: str) -> Callable[[onnx.ModelProto], None]:
    """Take a node out; what read it reads its first input."""

    def mutate(model: onnx.ModelProto) -> None:
        gone = node_of(model, name)
        for node in model.graph.node:
            node.input[:] = [gone.input[0] if n == gone.output[0] else n for n in node.input]
        model.graph.node.remove(gone)

    return mutate


def insert_after(
    name: str, kind: str, constant: float | None = None, **attributes: object
) -> Callable[[onnx.ModelProto], None]:
    """One more node behind a node, read by all that read it."""

    def mutate(model: onnx.ModelProto) -> None:
        tensor = node_of(model, name).output[0]
        number = next(i for i, n in enumerate(model.graph.node) if n.name == name)
        for node in model.graph.node:
            node.input[:] = ["planted_out" if n == tensor else n for n in node.input]
        inputs = [tensor]
        if constant is not None:
            model.graph.initializer.append(
                numpy_helper.from_array(np.array(constant, np.float32), "planted_constant")
            )
            inputs.append("planted_constant")
        model.graph.node.insert(
            number + 1, helper.make_node(kind, inputs, ["planted_out"], name=PLANTED, **attributes)
        )

    return mutate


def both(*changes: Callable[[onnx.ModelProto], None]) -> Callable[[onnx.ModelProto], None]:
    def mutate(model: onnx.ModelProto) -> None:
        for change in changes:
            change(model)

    return mutate


def _scale(share: float) -> Callable[[np.ndarray], None]:
    def change(array: np.ndarray) -> None:
        array[0] *= share

    return change


def _add(by: float) -> Callable[[np.ndarray], None]:
    def change(array: np.ndarray) -> None:
        array.flat[array.size // 2] += by

    return change


def _nan(array: np.ndarray) -> None:
    array.flat[0] = np.nan


def family(model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]]) -> Iterator[Mutant]:
    """Every mutant of a classifier of this project; ``shapes`` of its tensors, to rewire within."""
    tensors = {n.output[0]: n for n in model.graph.node}
    for node in model.graph.node:
        name, kind = node.name, node.op_type
        changes: dict[str, Callable[[onnx.ModelProto], None]] = {}
        planted: dict[str, Callable[[onnx.ModelProto], None]] = {}
        if kind == "Conv":
            kernel = next(t.dims[2] for t in model.graph.initializer if t.name == node.input[1])
            changes = {
                "a channel x1.02": edit(name, 1, _scale(1.02)),
                "one weight + 0.01": edit(name, 1, _add(0.01)),
                "a bias + 0.01": edit(name, 2, _add(0.01)),
                "no bias": drop_input(name, 2),
                "two input channels swapped": edit(name, 1, lambda a: a[:, [1, 0, *range(2, a.shape[1])]]),
                "channels rolled": edit(name, 1, lambda a: np.roll(a, 1, 0)),
                "NaN": edit(name, 1, _nan),
                "rounded to half": edit(name, 1, lambda a: a.astype(np.float16).astype(a.dtype)),
            }
            if kernel == 3:
                changes["padded on one side"] = attribute(name, "pads", [0, 0, 2, 2])
                changes["dilated"] = both(
                    attribute(name, "dilations", [2, 2]), attribute(name, "pads", [2] * 4)
                )
                changes["kernels mirrored"] = edit(name, 1, lambda a: a[..., ::-1])
        elif kind == "Gemm":
            changes = {
                "a row x1.02": edit(name, 1, _scale(1.02)),
                "a bias + 0.01": edit(name, 2, _add(0.01)),
                "no bias": drop_input(name, 2),
                "alpha 0.99": attribute(name, "alpha", 0.99),
                "rows rolled": edit(name, 1, lambda a: np.roll(a, 1, 0)),
            }
            planted = {"clipped": insert_after(name, "Selu"), "a temperature": insert_after(name, "Mul", 0.9)}
        elif kind == "Relu":
            changes = {
                "lost": becomes(name, "Identity"),
                "leaky": becomes(name, "LeakyRelu", alpha=0.1),
                "removed": remove(name),
            }
            planted = {"scaled": insert_after(name, "Mul", 0.99), "shifted": insert_after(name, "Add", 0.01)}
            planted["bent"] = insert_after(name, "Tanh")
        elif kind == "Add" and {tensors[n].op_type for n in node.input if n in tensors} & {"Conv", "Relu"}:
            made = list(tensors)[: list(tensors).index(node.output[0])]
            others = [t for t in made if shapes.get(t) == shapes[node.output[0]] and t not in node.input]
            changes = {
                "becomes Sub": becomes(name, "Sub", 2),
                "becomes Max": becomes(name, "Max", 2),
                "the shortcut lost": becomes(name, "Identity"),
                "only the shortcut": both(drop_input(name, 0), becomes(name, "Identity")),
            }
            if others:
                changes["reads another tensor"] = rewire(name, 1, others[0])
            planted = {"scaled": insert_after(name, "Mul", 0.99)}
        for what, change in changes.items():
            yield Mutant(f"{name}: {what}", name, change)
        for what, change in planted.items():
            yield Mutant(f"{name}: {what}", PLANTED, change)


def disguise(model: onnx.ModelProto) -> None:
    """Every node, tensor and initializer under another name, the nodes in another
    order that still computes.
    """
    kept = {value.name for value in (*model.graph.input, *model.graph.output)} | {""}
    names = {
        n: f"t{i}"
        for i, n in enumerate({t: 0 for node in model.graph.node for t in (*node.input, *node.output)})
        if n not in kept
    }
    for number, node in enumerate(model.graph.node):
        node.name = f"n{number}" if node.name != PLANTED else PLANTED
        node.input[:] = [names.get(n, n) for n in node.input]
        node.output[:] = [names.get(n, n) for n in node.output]
    for tensor in model.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    del model.graph.value_info[:]
    known = {t.name for t in model.graph.initializer} | {value.name for value in model.graph.input} | {""}
    left, order = [onnx.NodeProto.FromString(n.SerializeToString()) for n in model.graph.node], []
    while left:  # the last that can be computed first
        ready = next(n for n in reversed(left) if set(n.input) <= known)
        left.remove(ready)
        order.append(ready)
        known |= set(ready.output)
    del model.graph.node[:]
    model.graph.node.extend(order)
