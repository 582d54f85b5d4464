"""The chain of custody: from the pixels the run was trained on to the bytes that ship, how far each step
moves the answers.

One number for a whole export says that something moved; a number for each step says what did.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from export.independent.evidence import Evidence, run
from export.independent.float_program import ProgramFile
from export.independent.halves import KINDS
from export.parity.reference import Reference
from lfdeploy.artifact import Artifact
from lfdeploy.backends import BACKENDS, Session, Source
from lfdeploy.backends.base import Floats
from lfdeploy.images import Pixels

FEW = 32
Step = tuple[str, str, Floats | str]  # its name, what it compares, and its logits (N, K) or why none


@dataclass(frozen=True)
class Link:
    """A step, what it compares, the largest difference of logits divided by their scale, and the labels
    that changed.

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

    ``runs_file``: the session is that of the shipped file, not of the graph it was built from; ``hindrance``
    says why.
    """
    count = min(FEW, len(ref.images))
    pixels = np.ascontiguousarray(ref.images.images[:count])
    scale, last = float(np.abs(ref.logits).max()) or 1.0, ref.logits[:count]
    said = "those of the run, bit for bit" if same_data else "other pictures than the run's"
    links = [Link("P0", "pixels", said=said)]
    for step, what, found in (
        *_steps_of_numbers(evidence, str(artifact.manifest["precision"]), pixels),
        *_steps_of_files(artifact, session, pixels, runs_file, hindrance),
    ):
        if isinstance(found, str):
            links.append(Link(step, what, said=found))
        else:
            links.append(_link(step, what, last, found, scale))
            last = found
    said = f"sha256 {artifact.manifest['sha256'][:16]}, as in the manifest"
    links.append(Link("P5", "read again from disk", said=said))
    return [asdict(one) for one in links]


def _steps_of_numbers(evidence: Evidence | None, precision: str, pixels: Pixels) -> Iterator[Step]:
    """P1 and P2: from the module to the file's graph, and to weights of its precision."""
    if evidence is None or isinstance(evidence.opened, ProgramFile):
        yield "P1", "the file's graph without rounding", "nothing in it is rounded, or it cannot be read"
    else:
        what = "the file's graph with the run's numbers, unrounded, against the module"
        yield "P1", what, run(evidence.unrounded, pixels)["logits"]
    if evidence is not None and precision in KINDS:
        what = f"weights rounded to {precision}, against fp32"
        yield "P2", what, run(evidence.halved, pixels)["logits"]
    else:
        yield "P2", "cast", "nothing to cast" if precision == "fp32" else "int8 is made from the fp32 graph"


def _steps_of_files(
    artifact: Artifact, session: Session, pixels: Pixels, runs_file: bool, hindrance: str
) -> Iterator[Step]:
    """P3 and P4: to the ONNX graph, and to the shipped file where that is another one."""
    manifest, graph = artifact.manifest, artifact.path / "source.onnx"
    quantised = manifest["precision"] == "int8"
    what = "the quantised graph, against fp32" if quantised else "the shipped graph, against the one above"
    shipped = f"the shipped file by {session.backend}"
    if not runs_file:
        yield "P3", what, in_parts(session, pixels, manifest)
        yield "P4", "the engine", f"not run here: {hindrance}"
    elif artifact.file.suffix == ".onnx":
        yield "P3", what, in_parts(session, pixels, manifest)
        yield "P4", shipped, "the same file"
    elif graph.exists() and manifest["precision"] != "bf16":
        onnx = BACKENDS["onnxruntime"].open(Source(graph, manifest | {"format": "onnx"}), "cpu")
        yield "P3", what, in_parts(onnx, pixels, manifest)
        yield "P4", shipped, in_parts(session, pixels, manifest)
    else:
        yield "P3", "the traced graph", "no ONNX file that runs here; see P4"
        yield "P4", f"{shipped}, against the one above", in_parts(session, pixels, manifest)


def _link(step: str, what: str, before: Floats, after: Floats, scale: float) -> Link:
    apart = np.abs(after.astype(np.float64) - before).max() / scale
    flips = int((after.argmax(1) != before.argmax(1)).sum())
    return Link(step, what, float(apart) if np.isfinite(apart) else None, flips)


def in_parts(session: Session, pixels: Pixels, manifest: dict[str, Any]) -> Floats:
    """A session's logits (N, K), within the batches that it serves."""
    most = int(manifest["batch"]["max"])
    return np.concatenate([session(pixels[i : i + most])[0] for i in range(0, len(pixels), most)])
