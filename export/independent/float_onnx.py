"""An ONNX file taken apart: the numbers it holds, the ranges it rounds activations to, and its graph without
any rounding.

The graph that is left when every rounding is undone must answer as the module does, to fp32's last digits:
then the file computes the right network. Whether it rounds rightly is a question of numbers alone. Nothing of
the exporter is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.independent.expected_weights import Array

Answers = Callable[[NDArray[np.uint8]], dict[str, NDArray[np.float32]]]
FLOATS = {"FLOAT": "fp32", "FLOAT16": "fp16", "BFLOAT16": "bf16"}
LEVELS = {"uint8": (0, 255), "int8": (-128, 127)}


@dataclass(frozen=True)
class Constant:
    """A weight, bias or other number as a file holds it.

    ``value`` is what it stands for, float64 in the file's own layout; ``kind`` is fp32, fp16, bf16, int8,
    uint8 or int32. ``step`` of the integers is how far their levels are apart, of ``value``'s shape with 1
    where it does not vary.
    """

    kind: str
    value: Array
    step: Array | None = None


@dataclass(frozen=True)
class Range:
    """What a rounded activation can hold: from ``low`` to ``high`` in steps of ``step``."""

    low: float
    high: float
    step: float


class OnnxFile:
    """A parsed file. ``constants`` by name; ``ranges`` by the tensor that is rounded; ``faults``: what makes
    no sense in it.
    """

    def __init__(self, path: Path) -> None:
        import onnx
        from onnx import numpy_helper

        self.proto = onnx.load(path)
        graph = self.proto.graph
        self.kinds = {t.name: onnx.TensorProto.DataType.Name(t.data_type) for t in graph.initializer}
        self.tensors = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self.makers = {output: node for node in graph.node for output in node.output}
        self.faults: list[str] = []
        self.pairs: list[tuple[Any, Any]] = []  # (QuantizeLinear, DequantizeLinear) of an activation
        self.weights: dict[str, Any] = {}  # DequantizeLinear of a weight, by the constant's name
        for node in graph.node:
            if node.op_type != "DequantizeLinear":
                continue
            if node.input[0] in self.tensors:
                self.weights[node.input[0]] = node
            elif self.makers[node.input[0]].op_type == "QuantizeLinear":
                self.pairs.append((self.makers[node.input[0]], node))
            else:
                self.faults.append(f"{node.input[0]} is dequantised and was never quantised")
        self.ranges = self._ranges()
        self.constants = self._constants()

    def _scale(self, node: Any) -> tuple[NDArray[Any], NDArray[Any]]:
        scale = self.tensors[node.input[1]]
        zero = self.tensors[node.input[2]] if len(node.input) > 2 else np.zeros_like(scale, np.uint8)
        return scale, zero

    def _ranges(self) -> dict[str, Range]:
        ranges: dict[str, Range] = {}
        for quantize, dequantize in self.pairs:
            scale, zero = self._scale(quantize)
            other_scale, other_zero = self._scale(dequantize)
            tensor = quantize.input[0]
            if not (np.array_equal(scale, other_scale) and np.array_equal(zero, other_zero)):
                self.faults.append(
                    f"{tensor} is quantised by one scale and zero point and dequantised by another"
                )
            if scale.size != 1 or not (np.isfinite(scale).all() and (scale > 0).all()):
                self.faults.append(f"{tensor} has the scale {scale.reshape(-1)[:3].tolist()}")
                continue
            lowest, highest = LEVELS[zero.dtype.name]
            step, origin = float(scale.reshape(-1)[0]), int(zero.reshape(-1)[0])
            ranges[tensor] = Range((lowest - origin) * step, (highest - origin) * step, step)
        return ranges

    def _constants(self) -> dict[str, Constant]:
        quantised = {name for node in self.weights.values() for name in node.input}
        activations = {name for pair in self.pairs for node in pair for name in node.input}
        constants = {
            name: Constant(FLOATS[kind], self.tensors[name].astype(np.float64))
            for name, kind in self.kinds.items()
            if kind in FLOATS and name not in quantised and name not in activations
        }
        for name, node in self.weights.items():
            values = self.tensors[node.input[0]]
            scale, zero = (part.astype(np.float64) for part in self._scale(node))
            axis = next((a.i for a in node.attribute if a.name == "axis"), 1) % max(values.ndim, 1)
            shape = (
                [-1 if i == axis else 1 for i in range(values.ndim)] if scale.size > 1 else [1] * values.ndim
            )
            step = scale.reshape(shape)
            value = (values.astype(np.float64) - zero.reshape(shape)) * step
            constants[name] = Constant(values.dtype.name, value, step)
        return constants

    def unrounded(
        self, exact: Mapping[str, Array], cap: float | None, tensors: Iterable[str], outputs: Sequence[str]
    ) -> Answers:
        """The file's graph in fp32 with these numbers in the place of its own, and no rounding
        of activations.

        A range that begins at zero also cuts off what is negative: it stands for a ReLU that was left out, so
        it stays one. ``cap``: where the network's ReLUs end at a value, ranges that end there cut off above
        it. Answers hold the outputs, and the named rounded tensors as they are behind that ReLU.
        """
        rules = {tensor: bounds_of(limits, cap) for tensor, limits in self.ranges.items()}
        after = {quantize.input[0]: dequantize.output[0] for quantize, dequantize in self.pairs}
        named = {output: output for output in outputs} | {tensor: after[tensor] for tensor in tensors}
        return _session(self._rebuilt(exact, lambda pair: _clipped(pair, rules)), named)

    def rounded(
        self, exact: Mapping[str, Array], ranges: Mapping[str, Range], outputs: Sequence[str]
    ) -> Answers:
        """The same graph with activations rounded to ranges of somebody's choice, computed in fp32
        without optimisation.
        """
        return _session(
            self._rebuilt(exact, lambda pair: _requantised(pair, ranges)), {name: name for name in outputs}
        )

    def _rebuilt(self, exact: Mapping[str, Array], replace: Callable[[tuple[Any, Any]], Any]) -> Any:
        """A copy of the model in which every number is fp32, and each rounding of an activation what
        ``replace`` makes of it.
        """
        import onnx
        from onnx import numpy_helper

        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        graph = proto.graph
        new = {name: exact.get(name, constant.value) for name, constant in self.constants.items()}
        dropped = {name for node in self.weights.values() for name in node.input}
        dequantised = {node.output[0]: name for name, node in self.weights.items()}
        kept = [t for t in self.proto.graph.initializer if t.name not in dropped and t.name not in new]
        kept += [numpy_helper.from_array(new[n].astype(np.float32), n) for n in new if n not in self.weights]
        kept += [
            numpy_helper.from_array(new[n].astype(np.float32), output) for output, n in dequantised.items()
        ]
        del graph.initializer[:], graph.value_info[:]
        graph.initializer.extend(kept)
        pairs = {second.output[0]: (first, second) for first, second in self.pairs}
        firsts = {first.output[0] for first, _ in self.pairs}
        nodes: list[Any] = []
        for node in graph.node:
            if node.output[0] in pairs:
                nodes += replace(pairs[node.output[0]])
            elif node.output[0] not in firsts and node.output[0] not in dequantised:
                nodes.append(_wide(node))
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(nodes)
        for value in (*graph.input, *graph.output):
            if value.type.tensor_type.elem_type in (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16):
                value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        return proto


def bounds_of(limits: Range, cap: float | None) -> tuple[float | None, float | None]:
    """Where an activation's function ends, as its range tells: at zero below, and above at the cap;
    None: nowhere.
    """
    low = 0.0 if limits.low == 0 else None
    return low, cap if cap is not None and low == 0 and limits.high <= cap + limits.step else None


def _wide(node: Any) -> Any:
    """A node with fp32 for fp16 and bf16 in its attributes."""
    import onnx
    from onnx import numpy_helper

    halves = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    for attribute in node.attribute:
        if attribute.name == "to" and attribute.i in halves:
            attribute.i = onnx.TensorProto.FLOAT
        elif attribute.HasField("t") and attribute.t.data_type in halves:
            wide = numpy_helper.to_array(attribute.t).astype(np.float32)
            attribute.t.CopyFrom(numpy_helper.from_array(wide, attribute.t.name))
    return node


def _clipped(pair: tuple[Any, Any], rules: Mapping[str, tuple[float | None, float | None]]) -> list[Any]:
    from onnx import helper

    source, output = pair[0].input[0], pair[1].output[0]
    low, high = rules.get(source, (None, None))
    if low is None:
        return [helper.make_node("Identity", [source], [output])]
    if high is None:
        return [helper.make_node("Relu", [source], [output])]
    value = helper.make_node("Constant", [], [f"{output}/cap"], value_float=high)
    zero = helper.make_node("Constant", [], [f"{output}/zero"], value_float=low)
    return [value, zero, helper.make_node("Clip", [source, f"{output}/zero", f"{output}/cap"], [output])]


def _requantised(pair: tuple[Any, Any], ranges: Mapping[str, Range]) -> list[Any]:
    from onnx import helper, numpy_helper

    source, output = pair[0].input[0], pair[1].output[0]
    limits = ranges[source]
    origin = np.uint8(round(-limits.low / limits.step))
    names = [f"{output}/scale", f"{output}/origin"]
    arrays = (np.float32(limits.step), origin)
    nodes = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(array), name))
        for name, array in zip(names, arrays, strict=True)
    ]
    levels = f"{output}/levels"
    nodes.append(helper.make_node("QuantizeLinear", [source, *names], [levels]))
    return [*nodes, helper.make_node("DequantizeLinear", [levels, *names], [output])]


def _session(proto: Any, outputs: Mapping[str, str]) -> Answers:
    """Tensors of a graph, by the names they are given under, for uint8 pictures (B, H, W, 3); computed node
    by node as written.
    """
    import onnx
    import onnxruntime as ort

    known = {value.name for value in proto.graph.output}
    tensors = list(outputs.values())
    proto.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in dict.fromkeys(tensors) if name not in known
    )
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_cpu_mem_arena = options.enable_mem_pattern = (
        False  # every tensor may be an output: nothing to reuse
    )
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    source = proto.graph.input[0].name

    def answers(pictures: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        values = session.run(tensors, {source: np.ascontiguousarray(pictures)})
        return dict(zip(outputs, values, strict=True))

    return answers
