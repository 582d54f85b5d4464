"""The web page that answers: `serve` runs it, `build_app` only builds it."""

from __future__ import annotations

from serve.app import build_app
from serve.server import serve

__all__ = ["build_app", "serve"]
