"""What half precision (fp16, bf16) does to a network by nature: overflow, rounding, and the twin that a CPU should reproduce.

ONNX Runtime's CPU computes fp16 files in fp32 and has no bf16 at all, so it can neither show an overflow nor vouch for
accuracy on a GPU. Torch's own half arithmetic can. In return, on a CPU the file must agree closely with the module
whose weights were rounded and that is computed in fp32, which leaves small faults no room.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from export.graph import in_precision
from lfdeploy.backends.base import Floats
from lfdeploy.images import Pixels
from lfdeploy.models.deploy import Classifier


@dataclass(frozen=True)
class Half:
    """``overflows``: non-finite logits in true half arithmetic. ``difference``: its distance from fp32, divided by the scale.

    ``twin``: logits (N, K) of the same pictures with rounded weights and fp32 arithmetic; ``scale``: (N, 1), for each
    picture that of its kind. A probe's logits may be ten times a picture's, and so is its rounding.
    """

    overflows: int
    difference: float
    twin: Floats
    scale: Floats


def half_facts(
    classifier: Classifier, images: tuple[Pixels, Floats], probes: tuple[Pixels, Floats], precision: str = "fp16", few: int = 64
) -> Half:
    """Run both over pictures and then probes (N, H, W, 3), each with its fp32 logits; true halves, slow on a CPU, on the last ``few``."""
    pictures, reference = np.concatenate([images[0], probes[0]]), np.concatenate([images[1], probes[1]])
    scale = np.repeat([np.abs(images[1]).max(), np.abs(reference).max()], [len(images[1]), len(probes[1])])[:, None].clip(1e-12)
    half = in_precision(classifier, precision, pictures.shape[1])
    true = _run(half, pictures[-few:])
    half.network, half.dtype = half.network.float(), torch.float32
    twin = _run(half, pictures)
    overflows = int((~np.isfinite(true)).sum())
    apart = (np.abs(true - reference[-few:]) / scale[-few:]).max() if not overflows else float("inf")
    return Half(overflows, float(apart), twin, scale)


def largest_activation(classifier: Classifier, pictures: Pixels) -> tuple[str, float]:
    """The layer whose output, or input, reaches furthest in fp32, and how far: what fp16 cannot hold above 65,504.

    Pictures (N, H, W, 3) of any kind; the network is folded first, as it is exported.
    """
    folded = in_precision(classifier, "fp32", pictures.shape[1])
    found: dict[str, float] = {}

    def after(name: str) -> Any:
        def look(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            reach = [float(t.abs().max()) for t in (*args, output) if isinstance(t, Tensor)]
            found[name] = max([found.get(name, 0.0), *reach])

        return look

    for name, module in folded.network.named_modules():
        if not list(module.children()):
            module.register_forward_hook(after(name))
    _run(folded, pictures)
    return max(found.items(), key=lambda item: item[1])


def _run(classifier: Classifier, pictures: Pixels) -> Floats:
    parts = []
    with torch.inference_mode():
        for start in range(0, len(pictures), 64):
            parts.append(classifier(torch.from_numpy(np.ascontiguousarray(pictures[start : start + 64])))[0].numpy())
    return np.concatenate(parts)


def widen(source: Path, out: Path) -> Path:
    """A copy of a bf16 ONNX file with its bf16 tensors and casts turned to fp32: exact, and runs where bf16 does not."""
    import onnx
    from onnx import TensorProto, numpy_helper

    model = onnx.load(source)
    graph = model.graph

    def fp32(tensor: Any) -> None:
        if tensor.data_type == TensorProto.BFLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))

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
