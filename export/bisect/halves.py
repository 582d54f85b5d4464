"""Half-precision graphs that a CPU can compute: with fp32 throughout, or rounded as a GPU would round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.build.graph import HALVES

CODES = {"fp16": 10, "bf16": 16}  # TensorProto's numbers
FLOAT = 1


def widened(proto: Any, exact: Mapping[tuple[Any, ...], NDArray[Any]] | None = None) -> Any:
    """A copy with fp32 for fp16 and bf16, weights as they were rounded: a CPU then computes both
    graphs alike.

    With ``exact`` (see `originals`) the weights are those from before rounding.
    """
    import onnx
    from onnx import numpy_helper

    made = onnx.ModelProto()
    made.CopyFrom(proto)
    halves = set(CODES.values())
    for tensor in made.graph.initializer:
        if tensor.data_type in halves:
            array = numpy_helper.to_array(tensor)
            wide = (exact or {}).get((array.shape, array.tobytes()), array)
            tensor.CopyFrom(numpy_helper.from_array(wide.astype(np.float32), tensor.name))
    for node in made.graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i in halves:
                attribute.i = FLOAT
            elif attribute.HasField("t") and attribute.t.data_type in halves:
                attribute.t.CopyFrom(
                    numpy_helper.from_array(
                        numpy_helper.to_array(attribute.t).astype(np.float32), attribute.t.name
                    )
                )
    for value in (*made.graph.input, *made.graph.output):
        if value.type.tensor_type.elem_type in halves:
            value.type.tensor_type.elem_type = FLOAT
    del made.graph.value_info[:]
    return made


def originals(state: Mapping[str, Any], precision: str) -> dict[tuple[Any, ...], NDArray[Any]]:
    """fp32 weights by shape and bytes of what rounding makes of them, also transposed as the exporter may
    leave them.
    """
    import torch

    kind = HALVES[precision]
    found = {}
    for tensor in state.values():
        for each in (tensor, tensor.T) if tensor.ndim == 2 else (tensor,):
            rounded = each.contiguous().to(kind)
            found[
                tuple(each.shape),
                rounded.view(torch.uint8 if not each.ndim else torch.int16).numpy().tobytes(),
            ] = each.numpy()
    return found


def rounded(proto: Any, precision: str) -> tuple[Any, dict[str, str]]:
    """A widened copy in which every half-precision tensor is rounded once made, as a GPU would; tensor to
    rounded tensor.

    ONNX Runtime's CPU keeps fp32 between fp16 nodes, so it shows neither rounding nor overflow by itself.
    """
    import onnx
    from onnx import helper

    kind = CODES[precision]
    typed = onnx.shape_inference.infer_shapes(proto)
    half = {
        v.name for v in (*typed.graph.value_info, *typed.graph.output) if v.type.tensor_type.elem_type == kind
    }
    made = widened(proto)
    names = {
        tensor: f"{tensor}/rounded" for node in made.graph.node for tensor in node.output if tensor in half
    }
    nodes = []
    for node in made.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        nodes.append(node)
        for tensor in node.output:
            if tensor in names:
                nodes.append(helper.make_node("Cast", [tensor], [f"{tensor}/half"], to=kind))
                nodes.append(helper.make_node("Cast", [f"{tensor}/half"], [names[tensor]], to=FLOAT))
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del made.graph.node[:]
    made.graph.node.extend(copies)
    return made, names
