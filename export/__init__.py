"""Export: a run's peers, fused classifier or ensemble to ONNX and TensorRT, with proof."""

from __future__ import annotations

from export.pipeline import export
from export.prove import verify

__all__ = ["export", "verify"]
