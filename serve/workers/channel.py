"""What two processes of one server say to each other: a byte, and with it perhaps a connection."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress

#: From the first process: a visitor's connection; read the artifacts anew; finish and end.
#: From a worker: it answers now. From both: a private connection, to be answered as any other.
VISITOR, RELOAD, END, READY, ASKED = b"v", b"h", b"e", b"r", b"a"
#: In the state of a request that another process of this server sent; nobody else can put it there.
PRIVATE = "private"
#: Messages that are read at once; others of the loop come between.
AT_ONCE = 64


class Channel:
    """One end of it. Messages arrive in the order in which they were sent."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end

    @classmethod
    def of(cls, handle: int) -> Channel:
        """The end that a process was started with."""
        return cls(socket.socket(fileno=handle))

    def fileno(self) -> int:
        """For a loop that waits for messages."""
        return self._end.fileno()

    def send(self, word: bytes, connection: socket.socket | None = None) -> bool:
        """Say a word, and give the connection away; False where the other side is gone or does not listen:
        the connection is still ours then.
        """
        try:
            socket.send_fds(self._end, [word], [] if connection is None else [connection.fileno()])
        except OSError:
            return False
        if connection is not None:
            connection.close()
        return True

    def connect(self) -> socket.socket | None:
        """A private connection that the other side answers; None where it is gone."""
        ours, theirs = socket.socketpair()
        if self.send(ASKED, theirs):
            ours.setblocking(False)
            return ours
        ours.close()
        theirs.close()
        return None

    def messages(self) -> Iterator[tuple[bytes, socket.socket | None]]:
        """What has arrived; an empty word where the other side has ended."""
        for _ in range(AT_ONCE):
            try:
                word, handles, _, _ = socket.recv_fds(self._end, 1, 1)
            except BlockingIOError:
                return
            except OSError:
                word, handles = b"", []
            connections = [socket.socket(fileno=handle) for handle in handles]
            for connection in connections:
                connection.setblocking(False)
            yield word, connections[0] if connections else None
            if not word:
                return

    def close(self) -> None:
        """The other side sees an end."""
        with suppress(OSError):
            self._end.close()
