"""A request that came to a worker and is the first process's to answer, passed on as it came."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import h11

from serve.problems import Problem, request_number, response
from serve.workers.channel import PRIVATE

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Headers that are of one connection, and not of what it carries (RFC 9110, 7.6.1), and those that the
#: worker's own server writes.
HOP = {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
OWN = {b"date", b"server"}
#: Where a request came from, told on a private connection, which has no address.
FROM = b"x-lfdeploy-from"
PIECE = 65_536


class Relay:
    """An ASGI application that is another process's; ``connect`` makes a connection to it, or None."""

    def __init__(self, connect: Callable[[], socket.socket | None]) -> None:
        self._connect = connect
        self.active = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on the request and its answer; where its sender leaves, the other process sees that too."""
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        end = self._connect()
        if end is None:
            problem = Problem("stopping", "The server stops. Ask again later.", headers={"Retry-After": "10"})
            await response(problem, request_number())(scope, receive, send)
            return
        link = h11.Connection(h11.CLIENT)
        try:
            head = link.send(_head(scope)) or b""
        except h11.LocalProtocolError:  # uvicorn's parser takes more than h11 does
            end.close()
            problem = Problem("bad_request", "The request's headers are not well formed.")
            await response(problem, request_number())(scope, receive, send)
            return
        self.active += 1
        sending = asyncio.ensure_future(_ask(head, receive, end, link))
        try:
            await _answer(end, link, send)
        finally:
            self.active -= 1
            sending.cancel()
            with suppress(asyncio.CancelledError):
                await sending
            end.close()


async def _ask(head: bytes, receive: Receive, end: socket.socket, link: h11.Connection) -> None:
    """Send the request. Whoever answers before he has read it all is not sent the rest; where the sender
    leaves, the connection ends.
    """
    loop = asyncio.get_running_loop()
    with suppress(OSError):
        await loop.sock_sendall(end, head)
        more = True
        while more and (message := await receive())["type"] == "http.request":
            await loop.sock_sendall(end, link.send(h11.Data(data=message.get("body", b""))) or b"")
            more = message.get("more_body", False)
        if not more:
            await loop.sock_sendall(end, link.send(h11.EndOfMessage()) or b"")
    while (await receive())["type"] != "http.disconnect":
        pass
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


def _head(scope: Scope) -> h11.Request:
    left = HOP | {FROM, b"expect"}
    headers = [(name, value.strip(b" \t")) for name, value in scope["headers"] if name.lower() not in left]
    if not any(name.lower() == b"host" for name, _ in headers):  # as HTTP/1.0 may: the first one judges
        headers.append((b"host", b""))
    if any(name.lower() == b"transfer-encoding" for name, _ in scope["headers"]):
        headers.append((b"transfer-encoding", b"chunked"))
    client, _ = scope.get("client") or ("", 0)
    headers += [(b"connection", b"close"), (FROM, f"{scope['scheme']} {client}".encode())]
    query = b"?" + scope["query_string"] if scope["query_string"] else b""
    return h11.Request(method=scope["method"], target=scope["raw_path"] + query, headers=headers)


async def _answer(end: socket.socket, link: h11.Connection, send: Send) -> None:
    """Pass the answer on as it arrives. Raises `OSError` where it does not."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            event = link.next_event()
        except h11.RemoteProtocolError as error:
            raise OSError(f"the other process ended in its answer: {error}") from None
        if event is h11.NEED_DATA:
            link.receive_data(await loop.sock_recv(end, PIECE))
        elif isinstance(event, h11.Response):
            kept = [(name, value) for name, value in event.headers if name not in HOP | OWN]
            await send({"type": "http.response.start", "status": event.status_code, "headers": kept})
        elif isinstance(event, h11.Data):
            await send({"type": "http.response.body", "body": bytes(event.data), "more_body": True})
        elif isinstance(event, h11.EndOfMessage):
            await send({"type": "http.response.body", "body": b""})
            return
        elif isinstance(event, h11.ConnectionClosed):
            raise OSError("the first process has ended")


class Told:
    """ASGI middleware of the first process: a request that was passed on comes from where it came from."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on. Only a private connection is believed, which is no visitor's."""
        if scope["type"] == "http" and scope["state"].get(PRIVATE):
            told = dict(scope["headers"]).get(FROM, b"").decode("latin-1")
            scheme, _, client = told.partition(" ")
            kept = [row for row in scope["headers"] if row[0] != FROM]
            scope = {**scope, "headers": kept}
            if client:
                state = {key: value for key, value in scope["state"].items() if key != PRIVATE}
                scope |= {"scheme": scheme, "client": (client, 0), "state": state}
        await self.app(scope, receive, send)


async def fetch(end: socket.socket, method: str, path: str, token: str = "") -> tuple[int, bytes]:
    """Status and body of a request of our own over a private connection. Raises `OSError`."""
    link, loop = h11.Connection(h11.CLIENT), asyncio.get_running_loop()
    headers = [("Host", "localhost"), ("Connection", "close"), ("Content-Length", "0")]
    headers += [("Authorization", f"Bearer {token}")] if token else []
    status, parts = 0, []

    async def kept(message: Message) -> None:
        nonlocal status
        status = message.get("status", status)
        parts.append(message.get("body", b""))

    with end:
        request = link.send(h11.Request(method=method, target=path, headers=headers)) or b""
        await loop.sock_sendall(end, request + (link.send(h11.EndOfMessage()) or b""))
        await _answer(end, link, kept)
    return status, b"".join(parts)
