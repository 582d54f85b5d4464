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

from lfdeploy.backends import alike, facts
from lfdeploy.backends.base import Backend, Floats, Material, Session, Source, checked, output_names
from lfdeploy.console import say
from lfdeploy.devices import instruction_set, int8_saturates
from lfdeploy.errors import LfdeployError
from lfdeploy.images import Pixels

HINTS = {"INFERENCE_PRECISION_HINT": "f32", "EXECUTION_MODE_HINT": "ACCURACY"}
IN_FLOAT = {"LP_TRANSFORMS_MODE": "NO"}  # int8 numbers are widened before they are multiplied
FOLDED = ("Add", "Subtract", "Multiply", "Divide", "BatchNormInference")
ACTIVATIONS = ("Relu", "Clamp", "HSwish", "HardSigmoid", "Sigmoid", "Swish")
LAYERS = ("Convolution", "FullyConnected", "MatMul")
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
            _keep_apart(model)
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
            _require_products(source.file.name, layers, products_in_int8(model), kind)
        if widened:
            _say_widened(instruction_set())
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


def _keep_apart(model: Any) -> None:
    """Keep openvino from folding a sum or product by channel into the FakeQuantize behind it, by naming it
    an output.

    Where int8 is computed in float, openvino 2026.4 folds the two, also through an activation between them,
    and its kernel for ranges by channel takes another channel's for most numbers, from two channels on. A
    layer's bias is folded into the layer, rightly.
    """
    varying: set[str] = set()  # names of nodes that depend on the pictures
    apart = []
    for op in model.get_ordered_ops():
        sources = [value.get_node() for value in op.input_values()]
        if op.get_type_name() == "Parameter" or any(source.get_name() in varying for source in sources):
            varying.add(op.get_name())
        if op.get_type_name() != "FakeQuantize":
            continue
        folded = sources[0]
        while folded.get_type_name() in ACTIVATIONS:  # it folds what is before one, too
            folded = folded.input_value(0).get_node()
        sides = [value.get_node() for value in folded.input_values()]
        product = any(side.get_type_name().removeprefix("Group") in LAYERS for side in sides)
        if (
            folded.get_type_name() in FOLDED
            and not product
            and not all(side.get_name() in varying for side in sides)
        ):
            apart.append(sources[0].output(0))
    model.add_outputs(apart)


def layers_of(runtime: Any) -> dict[str, int]:
    """How many convolutions and matrix products of a compiled model's runtime graph multiply in which type.

    The kernel's name tells it (jit_avx2_I8, brgemm_avx2_f32): a layer's precision may be that of weights
    which the kernel widens before it multiplies.
    """
    layers: dict[str, int] = {}
    for op in runtime.get_ops():
        facts = op.get_rt_info()
        if facts["layerType"].value in LAYERS:
            kind = str(facts["primitiveType"].value).rpartition("_")[2].lower()
            kind = {"i8": "int8", "f32": "fp32"}.get(kind, kind)
            layers[kind] = layers.get(kind, 0) + 1
    return layers


def products_in_int8(model: Any) -> int:
    """How many tensors of int8 weights an IR or ONNX model multiplies with."""
    return sum(
        op.get_type_name() == "Constant"
        and op.get_element_type().to_string() == "i8"
        and len(op.get_output_shape(0)) > 1
        for op in model.get_ops()
    )


def _require_products(name: str, layers: dict[str, int], weights: int, kind: str) -> None:
    """Raise unless the file has int8 weights and as many layers multiply in int8, or all do in fp32."""
    count = layers.get(kind, 0)
    if not 0 < weights <= count or (kind == "fp32" and len(layers) > 1):
        products = ", ".join(f"{number} in {other}" for other, number in sorted(layers.items()))
        wanted = f"{name} has int8 weights for {weights}, to be multiplied in {kind} here"
        raise LfdeployError(f"openvino multiplies {products} on this processor where {wanted}. Export fp32.")


@lru_cache(maxsize=1)
def _say_widened(cpu: str) -> None:
    """Say once in a process that int8 files are computed in fp32 here."""
    why = f"openvino's int8 sums overflow on a CPU without VNNI ({cpu})"
    say(f"Note: {why}: it computes in fp32, as exact, no faster.")


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
    facts=facts.of_ir,
    difference=alike.of_ir,
    extra=("model.bin",),
    precisions=("fp32", "fp16", "int8"),
)
