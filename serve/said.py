"""What a server says to its terminal: where nobody reads that, it goes on without."""

from __future__ import annotations

import select
import sys

from lfdeploy import console


def say(message: str) -> None:
    """One line on standard error, or none where it would have to wait for a reader: an answer, or the end of
    the process, would wait with it.
    """
    try:
        heard = bool(select.select([], [sys.stderr], [], 0)[1])
    except (AttributeError, OSError, ValueError):  # closed, or no file of the system
        heard = True
    if heard:
        console.say(message)
