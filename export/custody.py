"""The chain of custody: from the pixels the run was trained on to the bytes that ship, how far each step moves the answers.

One number for a whole export says that something moved; a number for each step says what did.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from export.graph import HALVES, in_precision
from export.reference import Reference
from lfdeploy.artifact import Artifact
from lfdeploy.backends import BACKENDS, Session, Source
from lfdeploy.backends.base import Floats
from lfdeploy.images import Pixels
from lfdeploy.models.deploy import Classifier

FEW = 32


@dataclass(frozen=True)
class Link:
    """A step, what it compares, the largest difference of logits divided by their scale, and the labels that changed.

    The last two are None where the step is one of bytes, or was not made here; ``said`` then says which.
    """

    step: str
    what: str
    difference: float | None = None
    flips: int | None = None
    said: str = ""


def chain(
    artifact: Artifact, ref: Reference, session: Session, *, same_data: bool, runs_file: bool, hindrance: str
) -> list[dict[str, Any]]:
    """Every step, on the first `FEW` test pictures, as it stands in a manifest.

    ``runs_file``: the session is that of the shipped file, not of the graph it was built from; ``hindrance`` says why.
    """
    manifest = artifact.manifest
    precision, count = str(manifest["precision"]), min(FEW, len(ref.images))
    pixels = np.ascontiguousarray(ref.images.images[:count])
    scale = float(np.abs(ref.logits).max()) or 1.0

    def link(step: str, what: str, before: Floats, after: Floats) -> Link:
        apart = np.abs(after.astype(np.float64) - before).max() / scale
        return Link(step, what, float(apart) if np.isfinite(apart) else None, int((after.argmax(1) != before.argmax(1)).sum()))

    links = [Link("P0", "pixels", said="those of the run, bit for bit" if same_data else "other pictures than the run's")]
    module = ref.logits[:count]
    folded = in_precision(ref.classifier, "fp32", pixels.shape[1])
    last = answers(folded, pixels)
    links.append(link("P1", "BatchNorm folded, against the module", module, last))
    if precision in HALVES:
        half = in_precision(ref.classifier, precision, pixels.shape[1])
        links.append(link("P2", f"true {precision} arithmetic, against fp32", last, answers(half, pixels)))
        half.network, half.dtype = half.network.float(), torch.float32
        last = answers(half, pixels)
    else:
        links.append(Link("P2", "cast", said="nothing to cast" if precision == "fp32" else "int8 is made from the fp32 graph"))
    against = "the quantised graph, against fp32" if precision == "int8" else "the traced graph, against the module above"
    graph = artifact.path / "source.onnx"
    shipped = in_parts(session, pixels, manifest)
    if artifact.file.suffix == ".onnx" or not runs_file:
        links.append(link("P3", against, last, shipped))
        here = "the same file" if runs_file else f"not run here: {hindrance}"
        links.append(Link("P4", f"the shipped file by {session.backend}" if runs_file else "the engine", said=here))
    elif graph.exists() and precision != "bf16":
        told = manifest | {"format": "onnx"}
        onnx = in_parts(BACKENDS["onnxruntime"].open(Source(graph, told), "cpu"), pixels, manifest)
        links += [link("P3", against, last, onnx), link("P4", f"the shipped file by {session.backend}", onnx, shipped)]
    else:
        links.append(Link("P3", "the traced graph", said="no ONNX file that runs here; see P4"))
        links.append(link("P4", f"the shipped file by {session.backend}, against the module above", last, shipped))
    links.append(Link("P5", "read again from disk", said=f"sha256 {manifest['sha256'][:16]}, as in the manifest"))
    return [asdict(one) for one in links]


def answers(classifier: Classifier, pixels: Pixels) -> Floats:
    """A module's logits (N, K)."""
    with torch.inference_mode():
        logits: Floats = classifier(torch.from_numpy(pixels))[0].numpy()
    return logits


def in_parts(session: Session, pixels: Pixels, manifest: dict[str, Any]) -> Floats:
    """A session's logits (N, K), within the batches that it serves."""
    most = int(manifest["batch"]["max"])
    return np.concatenate([session(pixels[i : i + most])[0] for i in range(0, len(pixels), most)])
