"""One picture and one artifact to an answer, or to the sentence that stands in its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lfdeploy.confidence import abstains
from lfdeploy.errors import LfdeployError, PictureError
from lfdeploy.familiarity import unfamiliar
from serve.engine import Busy, Engine, Late, Outcome
from serve.entries import Entry
from serve.said import say

#: Larger files are refused, by the page before they are sent and by the server while they arrive.
MAX_MEGABYTES = 10


@dataclass(frozen=True)
class Answer:
    """Classes by falling probability and the times they took; or ``error``, one sentence, and nothing else.

    ``abstain``: the artifact is not sure; ``unfamiliar``: the picture is unlike those that it was trained
    on. None where the artifact says nothing of that.
    """

    entry: Entry | None = None
    top: tuple[tuple[str, float], ...] = ()
    notes: tuple[str, ...] = ()
    decode_ms: float = 0.0
    model_ms: float = 0.0
    error: str = ""
    abstain: bool | None = None
    queue_ms: float = 0.0
    unfamiliar: bool | None = None

    def document(self) -> dict[str, Any]:
        """The answer for a program: every class, in full precision."""
        assert self.entry is not None
        manifest = self.entry.artifact.manifest
        return {
            "artifact": self.entry.key,
            "sha256": manifest["sha256"],
            "parity": self.entry.artifact.verdict,
            "label": self.top[0][0],
            "probability": self.top[0][1],
            "top": [{"label": label, "probability": probability} for label, probability in self.top],
            "abstain": self.abstain,
            "unfamiliar": self.unfamiliar,
            "notes": list(self.notes),
            "decode_ms": self.decode_ms,
            "queue_ms": self.queue_ms,
            "model_ms": self.model_ms,
        }


def answer_of(outcome: Outcome) -> Answer:
    """Every class by falling probability, in the order of `lfdeploy predict`."""
    entry, row = outcome.entry, outcome.probabilities
    labels = entry.artifact.manifest["labels"]
    top = tuple((str(labels[i]), float(row[i])) for i in np.argsort(-row, kind="stable"))
    manifest = entry.artifact.manifest
    unsure, odd = abstains(manifest, float(row.max())), unfamiliar(manifest, outcome.logits[None])[0]
    return Answer(
        entry, top, outcome.notes, outcome.decode_ms, outcome.model_ms, abstain=unsure,
        queue_ms=outcome.queue_ms, unfamiliar=odd,
    )  # fmt: skip


def sentence_of(error: LfdeployError) -> str:
    """Why there is no answer, as a sentence of its own."""
    text = str(error)
    return text[:1].upper() + text[1:]


def classify(engine: Engine, blob: bytes) -> Answer:
    """Answer for the bytes of an uploaded file, through the same path as `lfdeploy predict`."""
    seen = engine.recent.take(blob)
    if seen is not None and seen.entry is engine.entry:
        return answer_of(seen)
    try:
        return answer_of(engine.submit(blob, here=True).result())
    except PictureError as error:
        return Answer(engine.entry, error=sentence_of(error))
    except (Busy, Late) as error:
        return Answer(engine.entry, error=str(error))


def uploaded(uploads: Path, picture: object) -> bytes:
    """The bytes of what a component says was uploaded. Raises `LfdeployError`: for anything else that a
    client may name, for what is too large, and for what is gone.
    """
    path = picture.get("path") if isinstance(picture, dict) else None
    try:
        if not isinstance(path, str) or not Path(path).resolve().is_relative_to(uploads.resolve()):
            raise LfdeployError("Only uploaded files are accepted, not paths or addresses.")
        if Path(path).stat().st_size > MAX_MEGABYTES * 1_000_000:
            raise LfdeployError(f"The upload is larger than {MAX_MEGABYTES} MB. Scale it down.")
        return Path(path).read_bytes()
    except OSError:
        raise LfdeployError("The upload is no longer on the server. Choose the picture again.") from None


def answer(engines: Mapping[str, Engine], uploads: Path, picture: object, key: object) -> Answer | None:
    """What the page shows for the values its components sent; None while there is no picture.

    Only files below ``uploads`` are opened.

    Whatever a client sends, and whatever goes wrong, the result is an `Answer`: the process lives on.
    """
    engine = engines.get(key) if isinstance(key, str) else None
    if engine is None:
        return Answer(
            error=f"There is no artifact '{str(key)[:80]}' on this page. It has: {', '.join(engines)}."
        )
    entry = engine.entry
    if entry.predictor is None:
        return Answer(entry, error=entry.cannot)
    if picture is None:
        return None
    try:
        return classify(engine, uploaded(uploads, picture))
    except LfdeployError as error:
        return Answer(entry, error=str(error))
    # nothing a visitor sends may end in a traceback; the person at the terminal is told
    except Exception as error:
        say(f"lfdeploy serve: {entry.key} failed: {type(error).__name__}: {error}")
        return Answer(
            entry, error=f"{entry.key} failed on this picture; the terminal of lfdeploy serve says why."
        )
