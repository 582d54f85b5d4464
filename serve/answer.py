"""One picture and one artifact to an answer, or to the sentence that stands in its place."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lfdeploy.console import say
from serve.entries import Entry

#: Larger files are refused, by the page before they are sent and by the server while they arrive.
MAX_MEGABYTES = 10


@dataclass(frozen=True)
class Answer:
    """Classes by falling probability and the times they took; or ``error``, one sentence, and nothing else.

    ``abstain``: the artifact is not sure; None where it has no threshold.
    """

    entry: Entry | None = None
    top: tuple[tuple[str, float], ...] = ()
    notes: tuple[str, ...] = ()
    decode_ms: float = 0.0
    model_ms: float = 0.0
    error: str = ""
    abstain: bool | None = None

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
            "notes": list(self.notes),
            "decode_ms": self.decode_ms,
            "model_ms": self.model_ms,
        }


def classify(entry: Entry, blob: bytes) -> Answer:
    """Answer for the bytes of an uploaded file, through the same path as `lfdeploy predict`."""
    if entry.predictor is None:
        return Answer(entry, error=cannot(entry))
    start = time.perf_counter()
    found = entry.predictor.predict([blob], top=len(entry.predictor.labels))[0]
    spent = (time.perf_counter() - start) * 1e3
    if found.error:
        return Answer(entry, error=found.error[:1].upper() + found.error[1:])
    return Answer(
        entry,
        found.top,
        found.notes,
        found.decode_ms,
        max(0.0, spent - found.decode_ms),
        abstain=found.abstain,
    )


def cannot(entry: Entry) -> str:
    """The sentence for an artifact that does not run on this machine."""
    return f"{entry.key} cannot run here: {entry.reason.rstrip('.')}. Pick another artifact."


def answer(entries: Mapping[str, Entry], uploads: Path, picture: object, key: object) -> Answer | None:
    """What the page shows for the values its components sent; None while there is no picture.

    Only files below ``uploads`` are opened.

    Whatever a client sends, and whatever goes wrong, the result is an `Answer`: the process lives on.
    """
    entry = entries.get(key) if isinstance(key, str) else None
    if entry is None:
        return Answer(
            error=f"There is no artifact '{str(key)[:80]}' on this page. It has: {', '.join(entries)}."
        )
    if entry.predictor is None:
        return Answer(entry, error=cannot(entry))
    if picture is None:
        return None
    path = picture.get("path") if isinstance(picture, dict) else None
    try:
        if not isinstance(path, str) or not Path(path).resolve().is_relative_to(uploads.resolve()):
            return Answer(entry, error="Only uploaded files are accepted, not paths or addresses.")
        if Path(path).stat().st_size > MAX_MEGABYTES * 1_000_000:
            return Answer(entry, error=f"The upload is larger than {MAX_MEGABYTES} MB. Scale it down.")
        return classify(entry, Path(path).read_bytes())
    except OSError:
        return Answer(entry, error="The upload is no longer on the server. Choose the picture again.")
    # nothing a visitor sends may end in a traceback; the person at the terminal is told
    except Exception as error:
        say(f"lfdeploy serve: {entry.key} failed: {type(error).__name__}: {error}")
        return Answer(
            entry, error=f"{entry.key} failed on this picture; the terminal of lfdeploy serve says why."
        )
