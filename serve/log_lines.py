"""Lines on their way to standard output, which a thread of their own writes: a reader that pauses stops
neither answers nor the end of the server.
"""

from __future__ import annotations

import io
import os
import queue
import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from serve.said import say

#: Lines that may wait for their reader, and seconds that those of the last answers may take at the end.
MOST, END_WITHIN = 10_000, 1.0


class Lines:
    """Takes lines and waits for nothing. What finds no place is counted; when it begins, and at the end, the
    terminal hears of it.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.lost = 0
        self._stream, self._ends = stream, False
        self._waiting: queue.Queue[str] = queue.Queue(MOST)
        self._thread = threading.Thread(target=self._write_all, name="lfdeploy-log", daemon=True)
        self._thread.start()

    def put(self, line: str) -> None:
        """Write it when its turn comes, or count it."""
        if self._stream is None:
            self._lose("there is no standard output")
            return
        try:
            self._waiting.put_nowait(line)
        except queue.Full:
            self._lose("nobody reads them")

    def close(self) -> None:
        """Write what waits, as far as somebody reads it."""
        self._ends = True
        with suppress(queue.Full):
            self._waiting.put_nowait("")
        self._thread.join(END_WITHIN)
        unwritten = self.lost + self._waiting.qsize()
        if unwritten:
            say(f"lfdeploy serve: {unwritten:,} lines of --log were left out.")

    def _lose(self, reason: str) -> None:
        self.lost += 1
        if self.lost == 1:
            say(f"lfdeploy serve: lines of --log are left out: {reason}. Requests are answered all the same.")

    def _write_all(self) -> None:
        while not self._ends or not self._waiting.empty():
            line = self._waiting.get()
            try:
                if line:
                    self._write(f"{line}\n")
            except Exception as error:  # of a stream that is not ours
                self._lose(getattr(error, "strerror", None) or str(error))

    def _write(self, line: str) -> None:
        assert self._stream is not None
        try:
            handle = self._stream.fileno()
        except (
            AttributeError,
            io.UnsupportedOperation,
        ):  # in memory, or with `write` alone
            self._stream.write(line)
            return
        # not by the stream: its lock would be held while nobody reads, and the interpreter's end wants it
        rest = line.encode()
        while rest:
            try:
                rest = rest[os.write(handle, rest) :]
            except BlockingIOError:
                select.select([], [handle], [])


@contextmanager
def lines_to(stream: TextIO | None, wanted: bool) -> Iterator[Lines | None]:
    """Lines to a stream, as far as possible written afterwards; None where none are wanted."""
    if not wanted:
        yield None
        return
    lines = Lines(stream)
    try:
        yield lines
    finally:
        lines.close()
