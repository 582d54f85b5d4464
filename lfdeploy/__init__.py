"""lfdeploy: train image classifiers that teach each other, export them with proof, serve them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from lfdeploy.predict import Predictor

__version__ = "0.1.0"


def open_artifact(path: str | Path, device: str = "auto") -> Predictor:
    """Open an exported artifact; its ``predict(pictures)`` answers with labels and probabilities."""
    from lfdeploy.predict import Predictor

    return Predictor.open(path, device=device)
