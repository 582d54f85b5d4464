"""Answers that the page has already shown: a picture that is dropped is answered by `/v1` at once, and again
when Gradio has put it in its place. The second time it is the same answer, and costs nothing.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from hashlib import sha256
from typing import Generic, TypeVar

T = TypeVar("T")
MOST = 32
#: Seconds after which nobody comes for it any more.
SOON = 30.0


class Recent(Generic[T]):
    """Outcomes by their picture's hash, each given once; no picture is kept."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: OrderedDict[bytes, tuple[float, T]] = OrderedDict()

    def put(self, blob: bytes, outcome: T) -> None:
        """Keep it for a moment."""
        with self._lock:
            self._found[sha256(blob).digest()] = time.monotonic(), outcome
            while len(self._found) > MOST:
                self._found.popitem(last=False)

    def take(self, blob: bytes) -> T | None:
        """The outcome of these bytes, if they were answered a moment ago and nobody has taken it."""
        with self._lock:
            if not self._found:
                return None
            found = self._found.pop(sha256(blob).digest(), None)
        return found[1] if found and time.monotonic() - found[0] < SOON else None
