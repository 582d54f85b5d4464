"""The gate's part for `--explain`: the map is the module's, and its mean is the top logit of the very
same answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from export.numbers.check import Check, at_least, at_most, equal
from export.parity.reference import Reference
from lfdeploy.backends import Session
from lfdeploy.backends.base import Floats
from lfdeploy.models.explain import HEATMAP, explained, explains, output_of, side_of
from lfdeploy.run import Run

FEW = 64
# by precision: of the largest place from the module's, and of the mean from the top logit, both / the map's
# scale
BOUNDS = {"fp32": (1e-4, 1e-5), "fp16": (3e-2, 3e-3), "bf16": (2e-1, 3e-2), "int8": (5e-1, 3e-2)}
SAME = 0.9  # int8's map must be the module's in shape: correlation over all pictures


def heat_outputs(run: Run, manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """What the map's output must be by the run's module; none where the manifest has no map."""
    if not explains(manifest):
        return []
    made = explained(run.classifier(str(manifest["target"])), str(manifest["target"]), run.spec)
    return output_of(side_of(made, int(run.spec["image_size"])))


def heat_checks(session: Session, manifest: dict[str, Any], ref: Reference) -> Iterator[Check]:
    """Stage values: the map on the first test pictures and the probes."""
    if not explains(manifest):
        return
    precision, most = str(manifest["precision"]), int(manifest["batch"]["max"])
    place, mean = BOUNDS[precision]
    pixels = np.ascontiguousarray(ref.images.images[: min(FEW, len(ref.images))])
    # int8's ranges are those of pictures
    pixels = pixels if precision == "int8" else np.concatenate([pixels, ref.probes])
    parts = [session.named(pixels[i : i + most]) for i in range(0, len(pixels), most)]
    logits, heat = (np.concatenate([part[name] for part in parts]) for name in ("logits", HEATMAP))
    module = explained(ref.classifier, ref.target, ref.run.spec)
    with torch.inference_mode():
        wanted_logits, _, wanted = (found.numpy() for found in module(torch.from_numpy(pixels)))
    bad = int((~np.isfinite(heat)).sum())
    yield equal("values", "heat map: non-finite places", bad, 0)
    if bad:
        return
    scale = float(np.abs(wanted).max()) or 1.0
    own = np.abs(heat.mean((1, 2)) - logits.max(1)).max() / scale
    yield at_most("values", "heat map: its mean from the top logit / scale", float(own), mean)
    same = logits.argmax(1) == wanted_logits.argmax(1)
    apart = np.abs(heat - wanted)[same].max(initial=0.0) / scale
    yield at_most("values", "heat map: largest difference / scale", float(apart), place)
    if precision == "int8" and heat.shape[1] > 1:
        yield at_least(
            "values", "heat map: correlation with the module's", _correlation(heat[same], wanted[same]), SAME
        )


def heat_alike(found: Floats, wanted: Floats, manifest: dict[str, Any]) -> Iterator[Check]:
    """Stage values: in one batch the pictures have the maps (B, S, S) that they have in another."""
    apart = np.abs(found - wanted).max() / (float(np.abs(wanted).max()) or 1.0)
    yield at_most("values", "heat maps' spread / scale", float(apart), BOUNDS[manifest["precision"]][0] / 10)


def _correlation(found: Floats, wanted: Floats) -> float:
    """Over all pictures, each map's mean taken off."""
    a, b = (maps.astype(np.float64) - maps.mean((1, 2), keepdims=True) for maps in (found, wanted))
    return float((a * b).sum() / max(np.sqrt((a * a).sum() * (b * b).sum()), 1e-30))
