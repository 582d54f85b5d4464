"""What a manifest says of its probabilities: the temperature that is in the graph, and from where on an
answer is sure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lfdeploy.errors import ParityError

KEY = "probability_calibration"


def temperature(manifest: Mapping[str, Any]) -> float | None:
    """T of ``probabilities = softmax(logits / T)``; None where the probabilities are softmax(logits)."""
    return _number(manifest, "temperature")


def threshold(manifest: Mapping[str, Any]) -> float | None:
    """The least top probability of an answer that is sure; None where none was found, or asked for."""
    return _number(manifest, "threshold")


def percent(probability: float) -> str:
    """With one decimal; never 100 or 0 unless it is."""
    if 0.9995 <= probability < 1:
        return "> 99.9 %"
    if 0 < probability < 0.0005:
        return "< 0.1 %"
    return f"{100 * probability:.1f} %"


def abstains(manifest: Mapping[str, Any], top: float) -> bool | None:
    """Whether an answer of this top probability is not sure; None where nothing is known of that."""
    least = threshold(manifest)
    return None if least is None else not top >= least


def _number(manifest: Mapping[str, Any], key: str) -> float | None:
    block = manifest.get(KEY)
    value = block.get(key) if isinstance(block, dict) else block
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise ParityError(f"stage file: manifest.json gives no number as {KEY}.{key}. Export it again.")
    return None if value is None else float(value)
