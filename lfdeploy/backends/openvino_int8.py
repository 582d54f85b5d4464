"""OpenVINO's int8 layers: what it must not fold on a CPU without VNNI, and what a compiled model really
multiplies.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from lfdeploy.console import say
from lfdeploy.errors import LfdeployError

FOLDED = ("Add", "Subtract", "Multiply", "Divide", "BatchNormInference")
ACTIVATIONS = ("Relu", "Clamp", "HSwish", "HardSigmoid", "Sigmoid", "Swish")
LAYERS = ("Convolution", "FullyConnected", "MatMul")


def keep_apart(model: Any) -> None:
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


def require_products(name: str, layers: dict[str, int], weights: int, kind: str) -> None:
    """Raise unless the file has int8 weights and as many layers multiply in int8, or all do in fp32."""
    count = layers.get(kind, 0)
    if not 0 < weights <= count or (kind == "fp32" and len(layers) > 1):
        products = ", ".join(f"{number} in {other}" for other, number in sorted(layers.items()))
        wanted = f"{name} has int8 weights for {weights}, to be multiplied in {kind} here"
        raise LfdeployError(f"openvino multiplies {products} on this processor where {wanted}. Export fp32.")


@lru_cache(maxsize=1)
def say_widened(cpu: str) -> None:
    """Say once in a process that int8 files are computed in fp32 here."""
    why = f"openvino's int8 sums overflow on a CPU without VNNI ({cpu})"
    say(f"Note: {why}: it computes in fp32, as exact, no faster.")
