"""Imported first by the command line: until that has its own ways, a Ctrl-C ends
the process without a trace.
"""

from __future__ import annotations

import os
import signal
import time

BEGAN = time.perf_counter()

_before = signal.getsignal(signal.SIGINT)


def _end(number: int, frame: object) -> None:
    os._exit(128 + number)


def over() -> None:
    """Give the signal back as it was."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, _before)


if _before is signal.default_int_handler:
    try:
        signal.signal(signal.SIGINT, _end)
    except ValueError:  # not in the main thread, where signals never arrive
        pass
