"""int8: an fp32 ONNX file with Q/DQ nodes around its layers, calibrated on training pictures, the best of
several tries.

The schemes, by what multiplies fast where: U8S8 (asymmetric uint8 activations) for ONNX Runtime on x86; S8S8
(symmetric, bias left in fp32) is what TensorRT's parser takes; N8S8 for OpenVINO has no zero points at all:
uint8 where a tensor is never negative, symmetric int8 elsewhere. The prologue and the logits stay fp32.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.build.graph import strip
from export.build.ranges import CALIBRATORS, Ranges, ranges, spreads
from export.numbers.statistics import Comparison, compare
from lfdeploy.backends.base import Floats
from lfdeploy.backends.onnxruntime import session_options
from lfdeploy.data import Data, Files
from lfdeploy.errors import LfdeployError
from lfdeploy.images import Pixels
from lfdeploy.models.explain import HEATMAP

LAYERS = ("Conv", "Gemm", "MatMul")
PICTURES = 512
ALIKE = 1.05  # KL divergences within this factor do not tell calibrators apart
UNSURE = 10.0  # logits within this leave probabilities that are neither 0 nor 1
TYPES = (*LAYERS, "Add", "Mul", "MaxPool", "Concat", "Relu", "Clip", "Reshape", "Transpose", "Split")
SCHEMES = {"onnx": "u8s8", "trt": "s8s8", "openvino": "n8s8"}  # by format


def prologue(graph: Any) -> list[str]:
    """Names of the nodes before the first layer: from pixels to the normalised picture."""
    names: list[str] = []
    for node in graph.node:
        if node.op_type in LAYERS:
            return names
        names.append(node.name)
    raise LfdeployError("the network has no layer that int8 could speed up")


def behind(graph: Any) -> list[str]:
    """Names of the nodes that work on what an output gives: the softmax, the mean of members' logits."""
    known, names = {value.name for value in graph.output}, []
    for node in graph.node:
        if known & set(node.input):
            names.append(node.name)
            known |= set(node.output)
    return names


def aside(graph: Any) -> list[str]:
    """Names of the nodes that only the heat map needs; they stay as they are."""
    needed = {value.name for value in graph.output if value.name != HEATMAP}
    names = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
        else:
            names.append(node.name)
    return names


def own_weights(graph: Any, alone: set[str]) -> None:
    """Give every node int8 weights of its own, equal to those of the node that reads them first: the nodes
    named in ``alone``, those of the heat map, and layers that peers have in common.

    A quantised weight that two nodes read is converted twice by onnxruntime on CPUs without VNNI,
    and refused.
    """
    from onnx import TensorProto

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    makers = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    copies: dict[tuple[str, str], Any] = {}
    readers: Counter[str] = Counter()
    for node in graph.node:
        for index, name in enumerate(node.input):
            maker = makers.get(name)
            source = tensors.get(maker.input[0]) if maker is not None else None
            if maker is None or source is None or source.data_type != TensorProto.INT8:
                continue
            suffix = "/heatmap" if node.name in alone else f"/{readers[name]}" if readers[name] else ""
            readers[name] += node.name not in alone
            if suffix:
                copies[name, suffix] = maker
                node.input[index] = name + suffix
    nodes = list(graph.node)
    for (_, suffix), maker in copies.items():
        copy = type(maker)()
        copy.CopyFrom(maker)
        copy.name, copy.output[0] = maker.name + suffix, maker.output[0] + suffix
        for place in (0, 2):  # the levels and their zero points are what is converted
            copy.input[place] = maker.input[place] + suffix
            graph.initializer.add().CopyFrom(tensors[maker.input[place]])
            graph.initializer[-1].name = copy.input[place]
        nodes.insert(0, copy)
    ordered = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(ordered)


def activations(graph: Any) -> list[str]:
    """Every float tensor between the prologue's output and the logits."""
    before = {*prologue(graph), *aside(graph)}
    inside = [n for n in graph.node if n.name not in before and n.op_type != "Softmax"]
    constants = {t.name for t in graph.initializer}
    names = [
        name for node in inside for name in (*node.input, *node.output) if name and name not in constants
    ]
    return list(dict.fromkeys(names))


def with_ranges(float_blob: bytes, chosen: Ranges, scheme: str) -> bytes:
    """The fp32 file with Q/DQ nodes for these ranges. Same input, same bytes."""
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    model = onnx.load_from_string(float_blob)
    props = {entry.key: entry.value for entry in model.metadata_props}
    alone = set(aside(model.graph))
    unsigned = scheme != "s8s8"
    data = TensorsData(
        CalibrationMethod.MinMax,
        {k: (np.float32(low), np.float32(high)) for k, (low, high) in chosen.items()},
    )
    options = {
        "ActivationSymmetric": not unsigned, "WeightSymmetric": True, "QuantizeBias": unsigned,
        "OpTypesToExcludeOutputQuantization": ["Gemm"] if not _gemm_inside(model.graph) else [],
    }  # fmt: skip
    if scheme == "n8s8":
        signed = {"quant_type": QuantType.QInt8, "symmetric": True}
        options["TensorQuantOverrides"] = {
            name: [dict(signed)] for name, (low, _) in chosen.items() if low < 0
        }
    quiet = logging.getLogger()
    level = quiet.level
    quiet.setLevel(logging.ERROR)  # "please pre-process": BatchNorm is folded and shapes are known already
    try:
        quantizer = QDQQuantizer(
            model, True, False, QuantType.QInt8, QuantType.QUInt8 if unsigned else QuantType.QInt8, data, [],
            prologue(model.graph) + behind(model.graph) + aside(model.graph), list(TYPES), options,
        )  # fmt: skip
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    finally:
        quiet.setLevel(level)
    made = quantizer.model.model
    own_weights(made.graph, alone)
    strip(made)
    onnx.helper.set_model_props(made, props)
    onnx.checker.check_model(made, full_check=True)
    blob: bytes = made.SerializeToString(deterministic=True)
    return blob


def _gemm_inside(graph: Any) -> bool:
    """Whether a Gemm gives something else than an output."""
    outputs = {value.name for value in graph.output}
    return any(node.op_type == "Gemm" and not outputs & set(node.output) for node in graph.node)


def logits_of(blob: bytes, images: Pixels, batch: int = 16) -> Floats:
    """The logits (N, K) of a file for uint8 pictures, on the CPU."""
    import onnxruntime as ort

    session = ort.InferenceSession(blob, session_options(), providers=["CPUExecutionProvider"])
    parts = [
        session.run(["logits"], {"images": np.ascontiguousarray(images[i : i + batch])})[0]
        for i in range(0, len(images), batch)
    ]
    return np.concatenate(parts)


@dataclass(frozen=True)
class Pictures:
    """Which pictures of the run calibrate, by index into train, and which choose the calibrator; none is in
    the test split.
    """

    calibration: NDArray[np.int64]
    held_out_split: str
    held_out: NDArray[np.int64]
    left_out: int


def pick(data: Data, most: int = PICTURES) -> Pictures:
    """The first pictures of train in the order of their content, without those that the test split holds too.

    The held-out ones are of val, or of train's other end where val has fewer than 64.
    """
    test = set(data.test.digests.tolist())
    free = np.array(
        [i for i, digest in enumerate(data.train.digests.tolist()) if digest not in test], np.int64
    )
    free_val = np.array(
        [i for i, digest in enumerate(data.val.digests.tolist()) if digest not in test], np.int64
    )
    if len(free) < 2:
        raise LfdeployError(
            "int8 needs training pictures that are not in the test split, and this run has none."
        )
    if len(free_val) >= 64:
        return Pictures(free[:most], "val", free_val[:most], len(data.train) - len(free))
    half = min(most, len(free) // 2)
    return Pictures(free[: min(most, len(free) - half)], "train", free[-half:], len(data.train) - len(free))


def batches(images: Pixels | Files, chosen: NDArray[np.int64]) -> Iterator[Pixels]:
    """Chosen pictures a few at a time, the fewer the larger they are: all activations of a batch stand in
    memory together.
    """
    side = images[chosen[:1]].shape[1] if len(chosen) else 1
    size = max(1, min(16, 2 * 224 * 224 // (side * side)))
    for start in range(0, len(chosen), size):
        yield images[chosen[start : start + size]]


def quantize(float_blob: bytes, scheme: str, data: Data) -> tuple[bytes, dict[str, Any]]:
    """The int8 file and what its manifest says of it.

    Every calibrator is tried; the one nearest to fp32 on held-out pictures is kept: by mean KL, of logits
    scaled down to at most `UNSURE`, since between answers that are all sure KL sees no difference. Of those
    that are about as near, the first in the table, which cuts off least.
    """
    import onnx

    model = onnx.load_from_string(float_blob)
    chosen = pick(data)
    found = spreads(model, activations(model.graph), batches(data.train.images, chosen.calibration))
    split = data.split(chosen.held_out_split)
    held_out = split.images[chosen.held_out]
    reference = logits_of(float_blob, held_out)
    soften = np.float32(max(1.0, float(np.abs(reference).max()) / UNSURE))
    tries: dict[str, tuple[Comparison, bytes]] = {}
    for name in CALIBRATORS:
        blob = with_ranges(float_blob, ranges(found, name), scheme)
        tries[name] = (
            compare(reference / soften, logits_of(blob, held_out) / soften, split.labels[chosen.held_out]),
            blob,
        )
    least = min(comparison.kl_mean for comparison, _ in tries.values())
    best = next(name for name, (comparison, _) in tries.items() if not comparison.kl_mean > ALIKE * least)
    return tries[best][1], {
        "scheme": scheme,
        "calibrator": best,
        "split": "train",
        "pictures": len(chosen.calibration),
        "digests": [digest.decode() for digest in data.train.digests[chosen.calibration].tolist()],
        "shared_with_test": 0,
        "left_out_as_in_test": chosen.left_out,
        "test_digest": data.test.digest,
        "held_out": {"split": chosen.held_out_split, "pictures": len(chosen.held_out)},
        "tries": {
            n: {key: asdict(c)[key] for key in ("kl_mean", "kl_max", "agreement", "flip_margin")}
            for n, (c, _) in tries.items()
        },
    }
