"""In which precision an engine's convolutions and matrix products compute: read, and held against what
was asked.

Two witnesses. The parsed network is strongly typed, so its tensors' types are the engine's; it can be read
anywhere. The engine's own inspector is better, and needs a GPU.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from lfdeploy.errors import LfdeployError

Layers = dict[str, dict[str, int]]  # kind of layer, precision, how many
KINDS = {"convolution": "convolutions", "matrix_multiply": "matrix products"}
TYPES = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16", "INT8": "int8"}
CARRIES = (
    "SHUFFLE",
    "SQUEEZE",
    "UNSQUEEZE",
    "IDENTITY",
    "SLICE",
    "CONCATENATION",
    "GATHER",
)  # moves numbers, changes none

#: how TensorRT's inspector names layers: its own kernels (CaskConvolution, CaskGemmMatrixMultiply), Myelin's
#: (conv, gemm)
_CONVOLUTION = re.compile(r"conv", re.IGNORECASE)
_PRODUCT = re.compile(r"gemm|matrix_?mul|matmul|fully_?connected", re.IGNORECASE)
_PRECISIONS = (
    ("bf16", re.compile(r"\b(bf16|bfloat16)\b", re.IGNORECASE)),
    ("fp16", re.compile(r"\b(fp16|half)\b", re.IGNORECASE)),
    ("int8", re.compile(r"\bint8\b", re.IGNORECASE)),
    ("fp32", re.compile(r"\b(fp32|float|float32)\b", re.IGNORECASE)),
)


def of_network(network: Any) -> Layers:
    """Convolutions and matrix products of a parsed `INetworkDefinition` by precision, and its Q and
    DQ layers.

    ``int8`` is a layer all of whose inputs come out of int8 through a DequantizeLinear; a layer whose tensors
    are of several types is ``mixed``.
    """
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    made = {layer.get_output(i).name: layer for layer in layers for i in range(layer.num_outputs)}
    found: Layers = {}
    for layer in layers:
        kind = layer.type.name.lower()
        if kind in (*KINDS, "deconvolution"):
            _count(found, "convolution" if kind == "deconvolution" else kind, _typed(layer, made))
        elif kind in ("quantize", "dequantize"):
            side = layer.get_output(0) if kind == "quantize" else layer.get_input(0)
            _count(found, kind, _named(side))
    return found


def of_inspector(document: str) -> Layers:
    """Convolutions and matrix products of what `EngineInspector.get_engine_information` says in JSON,
    by precision.

    The precision is that of the layer's first input. Layers whose type is not told (names only, dynamic
    shapes without a context, fused ones of another kind) are left out. Raises `LfdeployError` for what is no
    such document.
    """
    try:
        layers = json.loads(document)["Layers"]
    except (ValueError, KeyError, TypeError):
        raise LfdeployError("the engine inspector's answer is not the JSON that TensorRT documents") from None
    found: Layers = {}
    for entry in layers:
        if not isinstance(entry, dict):
            continue
        kinds = [str(entry.get(key, "")) for key in ("LayerType", "ParameterType")]
        kind = next(
            (
                k
                for pattern, k in ((_CONVOLUTION, "convolution"), (_PRODUCT, "matrix_multiply"))
                if any(map(pattern.search, kinds))
            ),
            "",
        )
        precision = next(_told(entry.get("Inputs", [])), "")
        if kind and precision:
            _count(found, kind, precision)
    return found


def require(layers: Layers, asked: str, witness: str) -> None:
    """Raise `LfdeployError` unless there are convolutions or matrix products and all compute in the precision
    asked for.
    """
    if not any(kind in layers for kind in KINDS):
        raise LfdeployError(
            f"{asked} was asked for, and the engine's {witness} shows no convolution and no matrix product."
        )
    other = [
        f"{count} of {sum(layers[kind].values())} {KINDS[kind]} in {precision}"
        for kind in KINDS
        for precision, count in layers.get(kind, {}).items()
        if precision != asked
    ]
    if other:
        raise LfdeployError(
            f"{asked} was asked for, and the engine's {witness} shows {', '.join(other)}: it is not kept."
        )


def _count(found: Layers, kind: str, precision: str) -> None:
    counts = found.setdefault(kind, {})
    counts[precision] = counts.get(precision, 0) + 1


def _named(tensor: Any) -> str:
    name = str(tensor.dtype.name)
    return TYPES.get(name, name.lower())


def _typed(layer: Any, made: Mapping[str, Any]) -> str:
    inputs = [
        tensor for tensor in (layer.get_input(i) for i in range(layer.num_inputs)) if tensor is not None
    ]
    weighed = inputs[:2] if len(inputs) > 1 else inputs  # the bias stays in fp32 around int8
    if all(_quantized(tensor, made) for tensor in weighed):
        return "int8"
    types = {_named(tensor) for tensor in (*inputs, layer.get_output(0))}
    return types.pop() if len(types) == 1 else "mixed"


def _quantized(tensor: Any, made: Mapping[str, Any]) -> bool:
    """Whether a tensor is an int8 one, dequantized, and perhaps moved since."""
    layer = made.get(tensor.name)
    while layer is not None and layer.type.name in CARRIES:
        layer = made.get(layer.get_input(0).name)
    return layer is not None and layer.type.name == "DEQUANTIZE" and layer.get_input(0).dtype.name == "INT8"


def _told(tensors: list[Any]) -> Iterator[str]:
    """Precisions of an inspector's tensors; ``N/A due to dynamic shapes`` is none."""
    for entry in tensors:
        told = (
            " ".join(str(entry.get(key, "")) for key in ("Format/Datatype", "Datatype", "DataType"))
            if isinstance(entry, dict)
            else ""
        )
        yield from (name for name, pattern in _PRECISIONS if pattern.search(told))


def inspected(trt: Any, runtime: Any, plan: bytes, shape: tuple[int, ...], name: str) -> Layers:
    """`of_inspector` for a plan that this machine's GPU can open, at one shape of its input; empty where
    it cannot.
    """
    engine = runtime.deserialize_cuda_engine(plan)
    context = engine and engine.create_execution_context()
    if not context or not context.set_input_shape(name, shape):
        return {}
    inspector = engine.create_engine_inspector()
    inspector.execution_context = context  # without one, formats of dynamic shapes are not told
    return of_inspector(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
