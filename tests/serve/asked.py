"""The application without a page, in a thread of the test, asked by real requests."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

import uvicorn
from starlette.responses import PlainTextResponse

from serve.access import Rules
from serve.application import application
from serve.http_limits import LimitedProtocol
from serve.log_lines import lines_to
from serve.server import listening
from serve.state import State


@dataclass(frozen=True)
class Api:
    """The application without a page, behind a real socket; a connection a request."""

    state: State
    port: int

    def __call__(
        self, method: str, path: str, body: bytes = b"", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers in lower case, and body; ``_`` in a header's name is ``-``."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body or None, sent)
            with connection.getresponse() as reply:
                told = {name.lower(): value for name, value in reply.getheaders()}
                return reply.status, told, reply.read()
        finally:
            connection.close()


@contextmanager
def answering(state: State, rules: Rules = Rules(), log: bool = False) -> Iterator[Api]:  # noqa: B008
    """The application in a thread of this process."""

    async def no_page(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("the page")(scope, receive, send)

    with listening("127.0.0.1", 0) as sock, lines_to(sys.stdout, log) as lines:
        app = application(state, no_page, rules, log=lines)
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="critical", lifespan="off", access_log=False, http=LimitedProtocol)
        )
        thread = threading.Thread(target=lambda: server.run(sockets=[sock]))
        thread.start()
        try:
            yield Api(state, sock.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(30)


def form(*files: tuple[str, bytes], mark: str = "mark") -> tuple[bytes, str]:
    """A form's body and its kind."""
    parts = [
        f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
        + blob
        + b"\r\n"
        for name, blob in files
    ]
    return b"".join(parts) + f"--{mark}--\r\n".encode(), f"multipart/form-data; boundary={mark}"
