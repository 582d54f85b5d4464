"""The chain of custody: from the pixels the run was trained on to the bytes that ship, how far each step moves the answers.

One number for a whole export says that something moved; a number for each step says what did.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from export.independent.evidence import Evidence, run
from export.independent.float_onnx import Answers
from export.independent.float_program import ProgramFile
from export.independent.halves import KINDS
from export.parity.reference import Reference
from lfdeploy.artifact import Artifact
from lfdeploy.backends import BACKENDS, Session, Source
from lfdeploy.backends.base import Floats
from lfdeploy.images import Pixels

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
    artifact: Artifact,
    ref: Reference,
    session: Session,
    evidence: Evidence | None,
    *,
    same_data: bool,
    runs_file: bool,
    hindrance: str,
) -> list[dict[str, Any]]:
    """Every step, on the first `FEW` test pictures, as it stands in a manifest.

    ``runs_file``: the session is that of the shipped file, not of the graph it was built from; ``hindrance`` says why.
    """
    manifest = artifact.manifest
    precision, count = str(manifest["precision"]), min(FEW, len(ref.images))
    pixels = np.ascontiguousarray(ref.images.images[:count])
    scale = float(np.abs(ref.logits).max()) or 1.0
    links = [Link("P0", "pixels", said="those of the run, bit for bit" if same_data else "other pictures than the run's")]
    last = ref.logits[:count]

    def step(name: str, what: str, logits: Floats) -> None:
        nonlocal last
        links.append(_link(name, what, last, logits, scale))
        last = logits

    if evidence is None or isinstance(evidence.opened, ProgramFile):
        links.append(Link("P1", "the file's graph without rounding", said="nothing in it is rounded, or it cannot be read"))
    else:
        step("P1", "the file's graph with the run's numbers, unrounded, against the module", _logits(evidence.unrounded, pixels))
    if evidence is not None and precision in KINDS:
        step("P2", f"weights rounded to {precision}, against fp32", _logits(evidence.halved, pixels))
    else:
        links.append(Link("P2", "cast", said="nothing to cast" if precision == "fp32" else "int8 is made from the fp32 graph"))
    what = "the quantised graph, against fp32" if precision == "int8" else "the shipped graph, against the one above"
    graph = artifact.path / "source.onnx"
    if artifact.file.suffix == ".onnx" or not runs_file:
        step("P3", what, in_parts(session, pixels, manifest))
        here = "the same file" if runs_file else f"not run here: {hindrance}"
        links.append(Link("P4", f"the shipped file by {session.backend}" if runs_file else "the engine", said=here))
    elif graph.exists() and precision != "bf16":
        onnx = BACKENDS["onnxruntime"].open(Source(graph, manifest | {"format": "onnx"}), "cpu")
        step("P3", what, in_parts(onnx, pixels, manifest))
        step("P4", f"the shipped file by {session.backend}", in_parts(session, pixels, manifest))
    else:
        links.append(Link("P3", "the traced graph", said="no ONNX file that runs here; see P4"))
        step("P4", f"the shipped file by {session.backend}, against the one above", in_parts(session, pixels, manifest))
    links.append(Link("P5", "read again from disk", said=f"sha256 {manifest['sha256'][:16]}, as in the manifest"))
    return [asdict(one) for one in links]


def _link(step: str, what: str, before: Floats, after: Floats, scale: float) -> Link:
    apart = np.abs(after.astype(np.float64) - before).max() / scale
    flips = int((after.argmax(1) != before.argmax(1)).sum())
    return Link(step, what, float(apart) if np.isfinite(apart) else None, flips)


def _logits(answers: Answers, pixels: Pixels) -> Floats:
    return run(answers, pixels)["logits"]


def in_parts(session: Session, pixels: Pixels, manifest: dict[str, Any]) -> Floats:
    """A session's logits (N, K), within the batches that it serves."""
    most = int(manifest["batch"]["max"])
    return np.concatenate([session(pixels[i : i + most])[0] for i in range(0, len(pixels), most)])
