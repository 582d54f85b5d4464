"""Heads of requests within limits: uvicorn's parser takes one of any length, and waits for it for ever."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from serve.access import HEADERS
from serve.http_upgrade import PlainProtocol
from serve.problems import Problem, document, request_number

#: Bytes of a request's line and headers together, and seconds in which they must arrive.
MOST_HEAD, HEAD_WITHIN = 65_536, 20.0


class LimitedProtocol(PlainProtocol):
    """A connection. What is no HTTP, too long or too slow is told so as all problems are, and closed."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._went_on, self._between, self._head = False, 0, 0
        self._clock: asyncio.TimerHandle | None = None
        self._problem = _malformed()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A head is expected."""
        super().connection_made(transport)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is expected any more."""
        self._stop_clock()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """A piece. Bytes that bring no head to its end and are of no body count: those of an endless header,
        of an endless trailer, of an endless size of a chunk.
        """
        self._went_on = False
        super().data_received(data)
        if not self._went_on:
            self._between += len(data)
            if self._between > MOST_HEAD:
                self._problem = _too_long()
                self.send_400_response("")
        if self._answered() and not self.pipeline:
            self._expect()  # uvicorn's own clock stops at any byte

    def on_message_begin(self) -> None:
        """A head begins; the clock of a connection's first one runs already."""
        super().on_message_begin()
        self._went_on, self._between, self._head = True, 0, 0
        self._expect()

    def on_url(self, url: bytes) -> None:
        """A part of the address."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A whole header, or a whole trailer."""
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def _count(self, length: int) -> None:
        self._head += length
        if self._head > MOST_HEAD:
            self._problem = _too_long()
            raise ValueError("the head is too long")  # the parser stops, and `send_400_response` follows

    def on_headers_complete(self) -> None:
        """The head is whole; its body has limits of its own."""
        self._went_on, self._between = True, 0
        self._stop_clock()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._went_on, self._between = True, 0
        super().on_body(body)

    def _answered(self) -> bool:
        return self.cycle is not None and self.cycle.response_complete

    def _expect(self) -> None:
        if self._clock is None and not self.transport.is_closing():
            self._clock = self.loop.call_later(HEAD_WITHIN, self._late)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _late(self) -> None:
        self._clock = None
        if self.scope is None or (self._answered() and self.scope is self.cycle.scope):
            self.transport.close()  # nothing was asked: browsers open connections in advance
            return
        self._problem = Problem("timeout", "The request did not arrive in time.")
        self.send_400_response("")

    def send_400_response(self, msg: str) -> None:
        """The problem, as all others are told, and the end of the connection; where an answer was begun, its
        end alone.
        """
        self._stop_clock()
        if self.transport.is_closing():
            return
        if self.cycle is not None and self.scope is self.cycle.scope and self.cycle.response_started:
            self.transport.close()
            return
        problem, number = self._problem, request_number()
        body = json.dumps(document(problem, number)).encode()
        told = [
            *self.server_state.default_headers,
            *HEADERS.items(),
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"x-error-code", problem.code.encode()),
            (b"x-request-id", number.encode()),
            (b"connection", b"close"),
        ]
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in told)
        self.transport.write(STATUS_LINE[problem.status] + lines + b"\r\n" + body)
        self.transport.close()


def _malformed() -> Problem:
    return Problem("bad_request", "This is not a request of HTTP/1.1.")


def _too_long() -> Problem:
    text = f"The request's address and headers are longer than {MOST_HEAD // 1024} KiB together."
    return Problem("head_too_large", text)
