"""lfdeploy: train image classifiers that teach each other, export them with proof, serve them."""

from __future__ import annotations

import os

TYPE_CHECKING = False  # that of typing takes long enough to import for a Ctrl-C to meet it

if TYPE_CHECKING:
    from pathlib import Path

    from lfdeploy.api import compare, evaluate, export, serve, train
    from lfdeploy.artifact import Artifact
    from lfdeploy.client import Client
    from lfdeploy.predict import Predictor

__version__ = "0.2.0"

# onnxruntime from 1.31 on reports every session to its maker, and keeps what it could not send in ~/.cache
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = ["Client", "compare", "evaluate", "export", "open_artifact", "serve", "train"]


def open_artifact(path: Artifact | str | Path, device: str = "auto") -> Predictor:
    """Open an exported artifact; its ``predict(pictures)`` answers with labels and probabilities."""
    from lfdeploy.predict import Predictor

    return Predictor.open(str(getattr(path, "path", path)), device=device)


def __dir__() -> list[str]:
    """All names, those that are imported when they are asked for too."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> object:
    """`Client`, and the functions of `lfdeploy.api`, imported when one is asked for."""
    if name == "Client":
        from lfdeploy.client import Client

        return Client
    if name in __all__:
        from lfdeploy import api

        return getattr(api, name)
    raise AttributeError(f"module 'lfdeploy' has no attribute '{name}'")
