"""bf16 where nothing computes it: the same file widened to fp32, which is exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def widen(source: Path, out: Path) -> Path:
    """A copy of a bf16 ONNX file with its bf16 tensors and casts turned to fp32: exact, and runs where bf16
    does not.
    """
    import onnx
    from onnx import TensorProto, numpy_helper

    model = onnx.load(source)
    graph = model.graph

    def fp32(tensor: Any) -> None:
        if tensor.data_type == TensorProto.BFLOAT16:
            tensor.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
            )

    for tensor in graph.initializer:
        fp32(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                fp32(attribute.t)
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.BFLOAT16:
                attribute.i = TensorProto.FLOAT
    del graph.value_info[:]
    out.write_bytes(model.SerializeToString())
    return out
