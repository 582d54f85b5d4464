"""What signals do to a server: SIGTERM ends it, SIGHUP lets it read its artifacts anew."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from serve.swap import swap_all

if TYPE_CHECKING:
    from serve.state import State


class Hangup:
    """SIGHUP, from the first moment on: before there is a state, what it asks for waits for one. Where the
    terminal is gone that the server was started from, the server ends.
    """

    def __init__(self) -> None:
        self.state: State | None = None
        self._asked = False
        # nohup ignores it before we do: then a terminal that is closed is no reason to end
        self._watches = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and has_terminal()

    def __call__(self, number: int, frame: object) -> None:
        """The signal's handler."""
        if self._watches and not has_terminal():
            signal.raise_signal(signal.SIGTERM)
        elif self.state is None:
            self._asked = True
        else:
            _reload(self.state)

    def serves(self, state: State) -> None:
        """From now on this is what is read anew."""
        self.state = state
        if self._asked:
            _reload(state)


def _reload(state: State) -> None:
    if state.team is not None:
        state.team.reload()
    threading.Thread(target=swap_all, args=(state,), name="lfdeploy-swap").start()


def has_terminal() -> bool:
    """Whether the process can be reached from a terminal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def stop(number: int, frame: object) -> None:
    """SIGTERM's handler: everything is cleaned up on the way out."""
    raise SystemExit(0)


@contextmanager
def handled(number: int, handler: Callable[[int, object], None]) -> Iterator[None]:
    """A signal's handler for a while; in a thread signals are the caller's."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)
