"""One number against one bound: what every stage of the parity gate yields."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """A stage, the name of what was measured, its value, its bound, and whether it passed."""

    stage: str
    name: str
    value: float | str
    bound: float | str
    passed: bool


def shown(value: float | str) -> str:
    """A value as it stands in a sentence."""
    return value if isinstance(value, str) else f"{value:.3g}"


def at_most(stage: str, name: str, value: float, bound: float) -> Check:
    """Passes when value <= bound, so never for NaN."""
    return Check(stage, name, float(value), float(bound), bool(value <= bound))


def at_least(stage: str, name: str, value: float, bound: float) -> Check:
    """Passes when value >= bound, so never for NaN."""
    return Check(stage, name, float(value), float(bound), bool(value >= bound))


def equal(stage: str, name: str, subject: object, reference: object) -> Check:
    """Passes when both are the same JSON value; the text "5" is not the number 5."""
    texts = [
        value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
        for value in (subject, reference)
    ]
    alike = texts[0] == texts[1] and isinstance(subject, str) == isinstance(reference, str)
    return Check(stage, name, texts[0][:200], texts[1][:200], alike)


@dataclass(frozen=True)
class Unexamined:
    """What a stage did not examine, and why. With ``decides`` the file cannot be
    called verified without it.
    """

    stage: str
    reason: str
    decides: bool = False
