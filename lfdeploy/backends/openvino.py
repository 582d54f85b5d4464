"""OpenVINO IR: model.xml and model.bin, on the CPU.

OpenVINO may compute in bf16 by itself where the processor has it, which costs fp32 four digits. Here it is
told f32 and accuracy, and what it took is read back; so is whether an int8 file is multiplied in int8. On an
x86 CPU without VNNI its int8 sums overflow (OpenVINO's "saturation issue"), so there the file's int8 numbers
are multiplied in fp32: the same answers, but no faster than fp32.
"""

from __future__ import annotations

import json
import sys
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

from lfdeploy.backends.alike import SAME, tensor_difference
from lfdeploy.backends.base import Backend, Floats, Material, Session, Source, checked, output_names
from lfdeploy.backends.facts import Facts, Value
from lfdeploy.backends.openvino_int8 import (
    keep_apart,
    layers_of,
    products_in_int8,
    require_products,
    say_widened,
)
from lfdeploy.devices import instruction_set, int8_saturates
from lfdeploy.errors import LfdeployError
from lfdeploy.images import Pixels

HINTS = {"INFERENCE_PRECISION_HINT": "f32", "EXECUTION_MODE_HINT": "ACCURACY"}
IN_FLOAT = {"LP_TRANSFORMS_MODE": "NO"}  # int8 numbers are widened before they are multiplied
METADATA = ("framework", "lfdeploy")  # where OpenVINO puts the ONNX file's metadata_props
TELEMETRY = "openvino_telemetry"


def load() -> Any:
    """The package. Its import would report itself to its maker over the network; here it does not."""
    hidden = TELEMETRY not in sys.modules
    if hidden:
        sys.modules[TELEMETRY] = None  # type: ignore[assignment]  # its own way to have none
    try:
        import openvino
    except ImportError:
        raise LfdeployError(
            _missing() or "openvino is installed but cannot be imported; reinstall it."
        ) from None
    finally:
        if hidden:
            del sys.modules[TELEMETRY]
    return openvino


def core() -> Any:
    """The one `openvino.Core` of the process, never given back.

    Its CPU plugin gives the thread that loads it a signal stack and takes it back when it ends. Of two that
    do not end in reverse order the freed stack stays behind, and the next Ctrl-C or SIGTERM is a
    segmentation fault.
    """
    return _core(load())


@lru_cache(maxsize=1)
def _core(openvino: Any) -> Any:
    return openvino.Core()


def read_ir(file: Path) -> Any:
    """An `openvino.Model` from an IR or ONNX file. Raises `LfdeployError` for what is no model."""
    reader = core()
    try:
        return reader.read_model(file)
    except RuntimeError as error:
        raise LfdeployError(f"{file.name} cannot be read by openvino: {_reason(error)}") from None


def told(model: Any) -> dict[str, Any]:
    """What an IR says of itself in rt_info; empty where it says nothing readable."""
    if not model.has_rt_info(list(METADATA)):
        return {}
    found = json.loads(str(model.get_rt_info(list(METADATA)).value))
    return found if isinstance(found, dict) else {}


def _reason(error: Exception) -> str:
    """OpenVINO's messages begin with places in its own sources; the sentence comes last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or ["no reason given"])[-1][:200]


def read_facts(path: Path) -> Facts:
    """What an OpenVINO IR says of itself. Raises `LfdeployError` for a damaged one, or without openvino."""
    model = read_ir(path)

    def value(of: Any) -> Value:
        names = sorted(of.get_names())
        dims = of.get_partial_shape()
        free = bool(len(dims)) and dims[0].is_dynamic
        rest = tuple(0 if d.is_dynamic else d.get_length() for d in list(dims)[1:])
        return Value("/".join(names), free, rest, of.get_element_type().to_dtype().name)

    return Facts("IR", tuple(map(value, model.inputs)), tuple(map(value, model.outputs)), told(model))


def difference(file: Path, again: Path, precision: str) -> str:
    """`ir_difference` of two files."""
    return ir_difference(read_ir(file), read_ir(again), precision)


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
    return tensor_difference(tensors[0], tensors[1], precision) or SAME


def _origin(value: Any, places: dict[str, int]) -> tuple[int, int]:
    """Which operation an input comes from, by its place in the order, and which of its outputs."""
    source = value.get_source_output()
    return places[source.get_node().get_friendly_name()], source.get_index()


def _build(material: Material, out: Path) -> dict[str, Any]:
    model = read_ir(material.onnx)
    for number, op in enumerate(model.get_ordered_ops()):
        name, kind = op.get_friendly_name(), op.get_type_name()
        # counted over the life of the process
        if name.startswith(f"{kind}_") and name.removeprefix(f"{kind}_").isdigit():
            op.set_friendly_name(f"{kind}_{number}")
    model.set_rt_info(json.dumps(material.facts, sort_keys=True, ensure_ascii=False), list(METADATA))
    load().save_model(model, out, compress_to_fp16=False)  # the precision is the graph's
    return {}


class OpenVinoSession:
    """A compiled model in f32 arithmetic on the CPU; one call at a time."""

    backend = "openvino"
    device = "cpu"

    def __init__(self, source: Source, device: str) -> None:
        if device == "cuda":
            raise LfdeployError(
                "openvino runs on the CPU; --device cuda has no meaning here. For the GPU export "
                "--format onnx or trt."
            )
        self.manifest, self.lock = source.manifest, Lock()
        model = read_ir(source.file)
        int8 = source.manifest.get("precision") == "int8"
        widened = int8 and int8_saturates()
        if widened:
            keep_apart(model)
        settings = HINTS | (IN_FLOAT if widened else {})
        if source.threads:
            settings = settings | {"INFERENCE_NUM_THREADS": str(source.threads)}
        try:
            self.compiled = core().compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise LfdeployError(
                f"{source.file.name} cannot be compiled by openvino: {_reason(error)}"
            ) from None
        arithmetic = self.compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if arithmetic != "f32":
            raise LfdeployError(f"openvino gave {arithmetic} arithmetic where f32 was asked for.")
        layers = layers_of(self.compiled.get_runtime_model())
        if int8:
            kind = "fp32" if widened else "int8"
            require_products(source.file.name, layers, products_in_int8(model), kind)
        if widened:
            say_widened(instruction_set())
        self.request = self.compiled.create_infer_request()

    def __call__(self, images: Pixels) -> tuple[Floats, Floats]:
        """Logits and probabilities."""
        found = self.named(images)
        return found["logits"], found["probabilities"]

    def named(self, images: Pixels) -> dict[str, Floats]:
        """Every output."""
        feed = {self.manifest["input"]["name"]: checked(images, self.manifest)}
        with self.lock:
            found = self.request.infer(feed, share_inputs=True, share_outputs=True)
            return {name: found[name].copy() for name in output_names(self.manifest)}


def _missing() -> str:
    from importlib.util import find_spec

    return "" if find_spec("openvino") else "openvino is not installed. Run: pip install openvino"


def _open(source: Source, device: str) -> Session:
    return OpenVinoSession(source, device)


BACKEND = Backend(
    about="OpenVINO on the CPU, f32 or int8 arithmetic",
    format="openvino",
    file="model.xml",
    missing=_missing,
    cannot_run=_missing,
    build=_build,
    open=_open,
    facts=read_facts,
    difference=difference,
    extra=("model.bin",),
    precisions=("fp32", "fp16", "int8"),
)
