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

    ``twin``: logits (N, K) of the same pictures with rounded weights and fp32 arithmetic.
    """

    overflows: int
    difference: float
    twin: Floats


def half_facts(classifier: Classifier, pictures: Pixels, reference: Floats, size: int, few: int = 64) -> Half:
    """Run both over pictures (N, H, W, 3) whose fp32 logits are ``reference``; true fp16, slow on a CPU, on the last ``few``."""
    half = in_precision(classifier, "fp16", size)
    true = _run(half, pictures[-few:])
    half.network, half.dtype = half.network.float(), torch.float32
    twin = _run(half, pictures)
    overflows = int((~np.isfinite(true)).sum())
    apart = np.abs(true - reference[-few:]).max() / max(float(np.abs(reference).max()), 1e-12) if not overflows else float("inf")
    return Half(overflows, float(apart), twin)


def _run(classifier: Classifier, pictures: Pixels) -> Floats:
    parts = []
    with torch.inference_mode():
        for start in range(0, len(pictures), 64):
            parts.append(classifier(torch.from_numpy(np.ascontiguousarray(pictures[start : start + 64])))[0].numpy())
    return np.concatenate(parts)
