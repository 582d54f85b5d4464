"""Training: peers that teach each other through fused layers."""

from __future__ import annotations

from training.loop import train

__all__ = ["train"]
