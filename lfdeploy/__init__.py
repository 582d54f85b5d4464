"""lfdeploy: train image classifiers that teach each other, export them with proof, serve them."""

from __future__ import annotations

TYPE_CHECKING = False  # that of typing takes long enough to import for a Ctrl-C to meet it

if TYPE_CHECKING:
    from pathlib import Path

    from lfdeploy.predict import Predictor

__version__ = "0.2.0"


def open_artifact(path: str | Path, device: str = "auto") -> Predictor:
    """Open an exported artifact; its ``predict(pictures)`` answers with labels and probabilities."""
    from lfdeploy.predict import Predictor

    return Predictor.open(path, device=device)
