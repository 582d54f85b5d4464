"""What half precision does to a network by nature: overflow, rounding, and the twin that a CPU should reproduce.

ONNX Runtime's CPU computes fp16 files in fp32, so it can neither show an overflow nor vouch for accuracy on a
GPU. Torch's own half arithmetic can. In return, on a CPU the file must agree closely with the module whose
weights were rounded to fp16 and that is computed in fp32, which leaves small faults no room.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from export.graph import in_precision
from lfdeploy.backends.base import Floats
from lfdeploy.images import Pixels
from lfdeploy.models.deploy import Classifier


@dataclass(frozen=True)
class Half:
    """``overflows``: non-finite logits in true fp16. ``difference``: its distance from fp32, divided by the scale.

    ``twin``: logits (N, K) of the same pictures with rounded weights and fp32 arithmetic; ``scale``: (N, 1), for each
    picture that of its kind. A probe's logits may be ten times a picture's, and so is its rounding.
    """

    overflows: int
    difference: float
    twin: Floats
    scale: Floats


def half_facts(classifier: Classifier, images: tuple[Pixels, Floats], probes: tuple[Pixels, Floats], few: int = 64) -> Half:
    """Run both over pictures and then probes (N, H, W, 3), each with its fp32 logits; true fp16, slow on a CPU, on the last ``few``."""
    pictures, reference = np.concatenate([images[0], probes[0]]), np.concatenate([images[1], probes[1]])
    scale = np.repeat([np.abs(images[1]).max(), np.abs(reference).max()], [len(images[1]), len(probes[1])])[:, None].clip(1e-12)
    half = in_precision(classifier, "fp16", pictures.shape[1])
    true = _run(half, pictures[-few:])
    half.network, half.dtype = half.network.float(), torch.float32
    twin = _run(half, pictures)
    overflows = int((~np.isfinite(true)).sum())
    apart = (np.abs(true - reference[-few:]) / scale[-few:]).max() if not overflows else float("inf")
    return Half(overflows, float(apart), twin, scale)


def _run(classifier: Classifier, pictures: Pixels) -> Floats:
    parts = []
    with torch.inference_mode():
        for start in range(0, len(pictures), 64):
            parts.append(classifier(torch.from_numpy(np.ascontiguousarray(pictures[start : start + 64])))[0].numpy())
    return np.concatenate(parts)
