"""Gradio's queue looks for work a thousand times a second, a twentieth of a core, even if there is none.
Here it does so while somebody calls, and seldom otherwise.
"""

from __future__ import annotations

import asyncio
from typing import Any

#: Seconds between two looks: for calls, and for their progress. As Gradio has them, and at rest.
BUSY, REST = (0.001, 0.01), (0.03, 0.4)
#: Seconds after a call in which the next one is expected.
AWAKE = 3.0


class Rest:
    """Sets the pace of a Gradio page's queue."""

    def __init__(self, page: Any) -> None:
        self._queue = page._queue
        self._timer: asyncio.TimerHandle | None = None
        self._pace(REST)

    def _pace(self, pace: tuple[float, float]) -> None:
        self._queue.sleep_when_free, self._queue.progress_update_sleep_when_free = pace

    def wake(self) -> None:
        """Somebody calls."""
        if self._timer is not None:
            self._timer.cancel()
        else:
            self._pace(BUSY)
        self._timer = asyncio.get_running_loop().call_later(AWAKE, self._calm)

    def _calm(self) -> None:
        self._timer = None
        self._pace(REST)
