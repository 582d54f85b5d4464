"""Two things of int8 weights that peers bring along which start from trained weights.

What step a channel of int8 weights needs: by its largest weight, or by a bias that must fit into 31 bits.

The file is onnxruntime's own quantizer's, of a convolution that has a channel of small weights beside a large
bias. And a weight that two layers read, as of peers with frozen layers: the file opens on every CPU.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from export.build.quantize import own_weights
from export.independent.expected_weights import Exact
from export.independent.float_onnx import Constant
from export.independent.weights import STEPS, Match, width
from lfdeploy.backends.onnxruntime import session_options

Array = NDArray[np.float64]


class Noise(CalibrationDataReader):  # type: ignore[misc]
    """A few inputs."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.rows = iter([{"x": random.uniform(0, 1e-3, (1, 3, 8, 8)).astype(np.float32)} for _ in range(4)])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next one."""
        return next(self.rows, None)


def quantize(folder: Path) -> None:
    """int8.onnx beside float.onnx, by onnxruntime's quantiser."""
    quantize_static(
        folder / "float.onnx", folder / "int8.onnx", Noise(), quant_format=QuantFormat.QDQ,
        per_channel=True, weight_type=QuantType.QInt8, extra_options={"WeightSymmetric": True},
    )  # fmt: skip


def quantized(weight: Array, bias: Array, folder: Path) -> dict[str, NDArray[np.generic]]:
    """The initializers of the int8 file of one convolution, by name."""
    tensors = [("w", weight), ("b", bias)]
    held = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in tensors]
    made = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, c, 8, 8]) for n, c in (("x", 3), ("y", 4))
    ]
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], pads=[1, 1, 1, 1])
    graph = helper.make_graph([node], "one", made[:1], made[1:], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "float.onnx")
    quantize(folder)
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(folder / "int8.onnx").graph.initializer}


def match(values: NDArray[np.generic], step: Array, kind: str, exact: Array) -> Match:
    """A constant of the file with its steps, and what the run has."""
    return Match(
        Constant(kind, values.astype(np.float64) * step, step), Exact(exact, np.abs(exact)), "source"
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("small", [1.0, 1e-4])
def test_a_bias_may_need_a_wider_step(small: float, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    weight = random.normal(size=(4, 3, 3, 3)).astype(np.float32).astype(np.float64)
    weight[2] *= small
    bias = np.array([0.1, -0.2, 3.0, 0.3], np.float32).astype(np.float64)
    file = quantized(weight, bias, tmp_path)
    steps = file["w_scale"].astype(np.float64).reshape(4, 1, 1, 1)
    weights = match(file["w_quantized"], steps, "int8", weight)
    biases = match(file["b_quantized"], file["b_quantized_scale"].astype(np.float64), "int32", bias)
    alone, beside = width(weights), width(weights, [biases])
    assert alone is not None and beside is not None and beside <= STEPS
    assert (alone > STEPS) == (small < 1)
    wide = match(file["w_quantized"], steps * np.array([1, 1, 2, 1]).reshape(4, 1, 1, 1), "int8", weight)
    found = width(wide, [biases])
    assert found is not None and found > STEPS  # twice what it needs is not excused by the same bias


@pytest.mark.filterwarnings("ignore")
def test_a_weight_that_two_layers_read_opens(tmp_path: Path) -> None:
    """On a CPU without VNNI onnxruntime converts it twice and refuses; each layer then has its own, alike."""
    random = np.random.default_rng(0)
    weight = numpy_helper.from_array(random.normal(size=(3, 3, 3, 3)).astype(np.float32), "w")
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 8, 8]) for name in "xyz"]
    nodes = [helper.make_node("Conv", [a, "w"], [b], name=b, pads=[1, 1, 1, 1]) for a, b in ("xy", "yz")]
    graph = helper.make_graph(nodes, "two", made[:1], made[1:], [weight])
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "float.onnx")
    quantize(tmp_path)
    model = onnx.load(tmp_path / "int8.onnx")
    own_weights(model.graph, set())
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    levels = [name for name in held if name.startswith("w_quantized")]
    assert len(levels) == 2 and (held[levels[0]] == held[levels[1]]).all()
    session = ort.InferenceSession(
        model.SerializeToString(), session_options(), providers=["CPUExecutionProvider"]
    )
    answers = session.run(None, {"x": np.ones((1, 3, 8, 8), np.float32) * 1e-3})
    assert all(np.isfinite(answer).all() for answer in answers)
