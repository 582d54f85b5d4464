"""An OpenVINO IR taken apart, as `export.independent.float_onnx` does for ONNX: its numbers, its ranges, its
graph without rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.independent.expected_weights import Array
from export.independent.float_onnx import Answers, Constant, Range, bounds_of
from lfdeploy.backends.openvino import HINTS, core, read_ir

KINDS = {"f32": "fp32", "f16": "fp16", "bf16": "bf16"}
INTEGERS = ("i8", "u8", "i32")
LEVELS = 255


class IrFile:
    """A parsed IR. ``constants`` by name; ``ranges`` by the tensor that is rounded; ``faults``: what makes no
    sense in it.

    A weight is Constant, Convert, Subtract (zero points), Multiply (scales); a rounded activation is
    FakeQuantize, Convert to the levels' type and back, Subtract, Multiply.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.constants: dict[str, Constant] = {}
        self.ranges: dict[str, Range] = {}
        self.faults: list[str] = []
        self.rounded_by: dict[str, str] = {}  # tensor: the Multiply that ends its rounding
        self.weights_by: dict[str, str] = {}  # constant: the Multiply that ends its dequantising
        taken: set[str] = set()
        ops = read_ir(path).get_ordered_ops()
        for op in ops:
            if op.get_type_name() == "Multiply" and (source := _quantised(op)) is not None:
                taken |= _fixed_names(op)
                if source.get_type_name() == "FakeQuantize":
                    self._activation(op, source)
                    taken |= {_before(source, i).get_friendly_name() for i in range(1, 5)}
                else:
                    self._weight(op, source)
        for op in ops:
            kind = op.get_element_type().to_string() if op.get_type_name() == "Constant" else ""
            name = op.get_friendly_name()
            if kind in KINDS and name not in taken:
                self.constants[name] = Constant(KINDS[kind], op.get_data().astype(np.float64))

    def _weight(self, product: Any, source: Any) -> None:
        levels = source.get_data().astype(np.float64)
        step = _value(_before(product, 1))
        value = (levels - _value(_before(_before(product, 0), 1))) * step
        name = source.get_friendly_name()
        kind = {"i8": "int8", "u8": "uint8", "i32": "int32"}[source.get_element_type().to_string()]
        step = step.reshape(step.shape if step.size > 1 else [1] * levels.ndim)
        self.constants[name] = Constant(kind, value, step)
        self.weights_by[name] = product.get_friendly_name()

    def _activation(self, product: Any, rounding: Any) -> None:
        tensor = product.get_friendly_name().removesuffix("_DequantizeLinear")
        low, high, lowest, highest = (float(_value(_before(rounding, i)).reshape(-1)[0]) for i in range(1, 5))
        step, zero = (float(_value(_before(op, 1)).reshape(-1)[0]) for op in (product, _before(product, 0)))
        levels = int(rounding.get_attributes()["levels"])
        if not (step > 0 and np.isfinite(step)):
            self.faults.append(f"{tensor} has the scale {step}")
            return
        ends = np.array([(lowest - zero) * step, (highest - zero) * step])
        if (
            levels != LEVELS + 1
            or highest - lowest != LEVELS
            or not np.allclose(ends, [low, high], rtol=1e-5, atol=step * 1e-3)
        ):
            self.faults.append(
                f"{tensor} is quantised by one scale and zero point and dequantised by another"
            )
        self.ranges[tensor] = Range(float(ends[0]), float(ends[1]), step)
        self.rounded_by[tensor] = product.get_friendly_name()

    def unrounded(
        self, exact: Mapping[str, Array], cap: float | None, tensors: Iterable[str], outputs: Sequence[str]
    ) -> Answers:
        """See `OnnxFile.unrounded`."""

        def clip(tensor: str, value: Any) -> Any:
            from openvino import opset13 as ops

            low, high = bounds_of(self.ranges[tensor], cap)
            if low is None:
                return value
            return ops.relu(value) if high is None else ops.clamp(value, low, high)

        return self._answers(exact, clip, list(tensors), outputs)

    def rounded(
        self, exact: Mapping[str, Array], ranges: Mapping[str, Range], outputs: Sequence[str]
    ) -> Answers:
        """See `OnnxFile.rounded`; rounding is written out, so that no kernel for int8 takes part."""

        def requantise(tensor: str, value: Any) -> Any:
            from openvino import opset13 as ops

            limits = ranges[tensor]
            low, step = np.float32(limits.low), np.float32(limits.step)
            inside = ops.clamp(value, float(limits.low), float(limits.high))
            return ops.add(
                ops.multiply(ops.round(ops.divide(ops.subtract(inside, low), step), "half_to_even"), step),
                low,
            )

        return self._answers(exact, requantise, [], outputs)

    def _answers(
        self,
        exact: Mapping[str, Array],
        round_to: Callable[[str, Any], Any],
        tensors: list[str],
        outputs: Sequence[str],
    ) -> Answers:
        from openvino import opset13 as ops

        model = read_ir(self.path)
        by_name = {op.get_friendly_name(): op for op in model.get_ordered_ops()}
        for name, constant in self.constants.items():
            value = exact.get(name, constant.value).astype(np.float32)
            _replace(by_name[self.weights_by.get(name, name)], ops.constant(value))
        for op in by_name.values():
            if op.get_type_name() == "Convert" and op.get_element_type().to_string() in ("f16", "bf16"):
                _replace(op, ops.convert(_input(op, 0), "f32"))
        ends = {}
        for tensor, product in self.rounded_by.items():
            rounding = _quantised(by_name[product])
            ends[tensor] = round_to(tensor, _input(rounding, 0))
            _replace(by_name[product], ends[tensor])
        named = {output: output for output in outputs}
        for tensor in tensors:
            output = ends[tensor] if hasattr(ends[tensor], "get_node") else ends[tensor].output(0)
            output.get_tensor().add_names({f"{tensor}/rounded"})
            # one that is there already, where the tensor is an output of the file
            (shown,) = model.add_outputs(output)
            named[tensor] = shown.get_any_name()
        model.validate_nodes_and_infer_types()
        return _session(model, named)


def _session(model: Any, outputs: Mapping[str, str]) -> Answers:
    request = (
        core().compile_model(model, "CPU", HINTS | {"INFERENCE_NUM_THREADS": "1"}).create_infer_request()
    )
    source = model.inputs[0].get_any_name()

    def answers(pictures: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        values = request.infer({source: np.ascontiguousarray(pictures)})
        return {name: values[tensor].copy() for name, tensor in outputs.items()}

    return answers


def _before(op: Any, index: int) -> Any:
    return op.input_value(index).get_node()


def _input(op: Any, index: int) -> Any:
    return op.input_value(index)


def _replace(op: Any, other: Any) -> None:
    """Let whoever reads an operation's output read another's."""
    new = other if hasattr(other, "get_node") else other.output(0)
    for reader in op.output(0).get_target_inputs():
        reader.replace_source_output(new)


def _quantised(product: Any) -> Any | None:
    """What a dequantising Multiply starts from: a Constant of integers, or a FakeQuantize; None for
    another Multiply.
    """
    op = _before(product, 0)
    if op.get_type_name() != "Subtract" or _before(op, 0).get_type_name() != "Convert":
        return None
    source = _before(_before(op, 0), 0)
    if source.get_type_name() == "Constant" and source.get_element_type().to_string() in INTEGERS:
        return source
    if source.get_type_name() == "Convert" and _before(source, 0).get_type_name() == "FakeQuantize":
        return _before(source, 0)
    return None


def _fixed_names(product: Any) -> set[str]:
    """The constants that hold a weight's or an activation's scales and zero points."""
    names = set()
    for op in (_before(product, 1), _before(_before(product, 0), 1)):
        while op.get_type_name() in ("Reshape", "Convert"):
            op = _before(op, 0)
        names.add(op.get_friendly_name())
    return names


def _value(op: Any) -> Array:
    """What an operation that reads constants alone gives."""
    if op.get_type_name() == "Constant":
        return np.asarray(op.get_data(), np.float64)
    if op.get_type_name() == "Convert":
        return _value(_before(op, 0))
    if op.get_type_name() == "Reshape":
        return _value(_before(op, 0)).reshape(_value(_before(op, 1)).astype(int))
    raise ValueError(f"{op.get_friendly_name()} is a {op.get_type_name()} where a constant belongs")
