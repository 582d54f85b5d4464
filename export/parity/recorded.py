"""Stage reference: the module that files are compared with is the one that training had, by what training
itself wrote down.

Whatever code training and export share, or whatever has changed since (weights, class order, mean, resize
rule, Pillow, torch), a module that answers otherwise than the trained one is no reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from export.independent.halves import answers
from export.numbers.check import Check, Unexamined, at_most, equal
from export.parity.reference import Reference
from lfdeploy.recorded_logits import FILE, Recorded, facts_here, read
from lfdeploy.run import sha256
from lfdeploy.split_arrays import pixel_digest

STAGE = "reference"
ALIKE, ELSEWHERE = 1e-4, 1e-2  # of the logits' scale: by the same torch and processor, and by others
Both = Iterator[Check | Unexamined]


def recorded_checks(ref: Reference) -> Both:
    """Today's module of one target against its logits as training computed them."""
    recorded, noted = read(ref.run), ref.run.read("summary.json").get("reference")
    if noted:
        here = sha256(ref.run.path / FILE) if recorded is not None else f"no {FILE}"
        yield equal(STAGE, f"sha256 of {FILE} that training kept", here, noted)
    if recorded is None:
        yield Unexamined(STAGE, f"run {ref.run.name} has no {FILE}: it was trained by an older lfdeploy")
        return
    yield equal(
        STAGE, "class names that training had", list(recorded.facts["classes"]), ref.run.spec["classes"]
    )
    yield equal(
        STAGE,
        "sha256 of the weights that training kept",
        recorded.facts["weights_sha256"],
        sha256(ref.run.weights),
    )
    bound = ALIKE if _same_machine(recorded.facts) else ELSEWHERE
    probes = recorded.probe_logits[ref.target]
    scale = float(max(np.abs(recorded.logits[ref.target]).max(), np.abs(probes).max())) or 1.0
    yield _apart("probes", answers(ref.classifier, recorded.probes), probes, scale, bound)
    yield from _picture_checks(ref, recorded, scale, bound)


def _same_machine(facts: Mapping[str, Any]) -> bool:
    here = facts_here("cpu")
    return all(facts.get(key) == value for key, value in here.items())


def _apart(what: str, subject: Any, reference: Any, scale: float, bound: float) -> Check:
    apart = float(np.abs(subject - reference).max()) / scale
    return at_most(STAGE, f"the module's logits on {what}, from those of training / scale", apart, bound)


def _picture_checks(ref: Reference, recorded: Recorded, scale: float, bound: float) -> Both:
    """The test pictures that training noted, as far as they are here, as they are decoded today."""
    redecoded = ref.data.redecoded
    yield equal(STAGE, "pictures whose bytes are those of training, and whose pixels are not", redecoded, 0)
    places = {digest.decode(): i for i, digest in enumerate(ref.images.digests.tolist())}
    rows = [row for row, digest in enumerate(recorded.digests) if digest in places]
    if not rows:
        yield Unexamined(
            STAGE, "none of the pictures that training noted is here: its probes alone were compared"
        )
        return
    indices = np.array([places[recorded.digests[row]] for row in rows], np.int64)
    pixels = np.ascontiguousarray(ref.images.images[indices])
    changed = sum(
        pixel_digest(image).decode() != recorded.digests[row] for image, row in zip(pixels, rows, strict=True)
    )
    yield equal(STAGE, "pictures whose pixels are no longer those that training saw", changed, 0)
    reference = recorded.logits[ref.target][rows]
    yield _apart(f"{len(rows)} pictures", answers(ref.classifier, pixels), reference, scale, bound)
