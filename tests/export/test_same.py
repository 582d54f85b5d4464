"""`export.same`: what it calls the same, and the first difference that it names."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from lfdeploy.backends.alike import SAME, close
from lfdeploy.backends.onnxruntime import onnx_difference
from lfdeploy.run import Run


def set_weight(
    position: int, change: Callable[[np.ndarray], np.ndarray]
) -> Callable[[onnx.ModelProto], None]:
    def edit(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[position]
        tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), tensor.name))

    return edit


CHANGES: dict[str, tuple[str, Callable[[onnx.ModelProto], None]]] = {
    "another domain": ("belongs", lambda m: setattr(m.graph.node[-1], "domain", "own")),
    "another input": ("belongs", lambda m: m.graph.node[-1].input.__setitem__(0, "images")),
    "a node more": (
        "nodes where",
        lambda m: m.graph.node.append(helper.make_node("Identity", ["images"], ["more"])),
    ),
    "an attribute": (
        "attributes of",
        lambda m: setattr(
            next(a for n in m.graph.node if n.op_type == "Softmax" for a in n.attribute), "i", 0
        ),
    ),
    "a function": ("functions of the file", lambda m: m.functions.append(onnx.FunctionProto(name="f"))),
    "a tensor more": (
        "tensor more",
        lambda m: m.graph.initializer.append(numpy_helper.from_array(np.zeros(1), "more")),
    ),
    "a shape": (
        "input of the file",
        lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", 8),
    ),
    "a note": ("doc_string of the file", lambda m: setattr(m.graph, "doc_string", "note")),
    "other words": ("metadata_props of the file", lambda m: setattr(m.metadata_props[0], "value", "{}")),
    "a weight": ("values of", set_weight(0, lambda a: a + np.asarray(1e-3 * np.abs(a).max(), a.dtype))),
    "a type": ("shape or type of", set_weight(0, lambda a: a.astype(np.float64))),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_first_difference_is_named(name: str, tiny_run: Run) -> None:
    file = tiny_run.artifacts / "peer0-onnx-fp32" / "model.onnx"
    found, wanted = onnx.load(file), onnx.load(file)
    assert onnx_difference(found, wanted, "fp32") == SAME
    said, change = CHANGES[name]
    change(found)
    assert said in onnx_difference(found, wanted, "fp32")
    assert onnx_difference(wanted, found, "fp32") != SAME


ROUNDED = np.float32(1 + 2**-22)  # another processor's last bit


@pytest.mark.parametrize(
    ("belongs", "found", "precision", "same"),
    [
        (np.float32([1.0, 2.0]), np.float32([1.0, 2.0]) * ROUNDED, "fp32", True),
        (np.float32([1.0, 2.0]), np.float32([1.0001, 2.0]), "fp32", False),
        (
            np.float32([1e-3, 2.0]),
            np.float32([1.1e-3, 2.0]),
            "int8",
            False,
        ),  # a small scale beside a large one
        (np.float32([1.0, 2.0]), np.float32([np.nan, 2.0]), "int8", False),
        (np.float16([1.0, 2.0]), np.float16([1.0, 2.002]), "fp16", True),
        (np.float16([1.0, 2.0]), np.float16([1.01, 2.0]), "fp16", False),
        (np.int64([1, 2]), np.int64([1, 3]), "int8", False),
        (np.zeros(4000, np.int8), np.eye(1, 4000, dtype=np.int8)[0], "int8", True),
        (np.zeros(4000, np.int8), np.ones(4000, np.int8), "int8", False),
        (np.zeros(4000, np.int8), 2 * np.eye(1, 4000, dtype=np.int8)[0], "int8", False),
        (np.int32([1000, -5]), np.int32([1001, -4]), "int8", True),
        (np.int32([1000, -5]), np.int32([1005, -5]), "int8", False),
    ],
)
def test_what_is_close(belongs: np.ndarray, found: np.ndarray, precision: str, same: bool) -> None:
    assert close(found, belongs, precision) is same
