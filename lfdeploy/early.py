"""Imported first by the command line: until that has its own ways, a Ctrl-C ends
the process without a trace; and OpenMP is told how to wait before a library brings it.
"""

from __future__ import annotations

import os
import signal
import time

BEGAN = time.perf_counter()

#: How often an idle thread of OpenMP looks for work before it sleeps. By default it looks 30 times as often,
#: and keeps the cores from threads that have work wherever other processes want them too.
SPINS = "10000"

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)

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
