"""`lfdeploy serve --log`: a line of JSON for each request on standard output, for those who collect logs.

No picture, no file's name and no token is in it; the path comes without its query.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from serve.workers.channel import PRIVATE

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from serve.log_lines import Lines

#: Headers of an answer that say more of it, and the key of each in the line.
TOLD = {b"x-error-code": "code", b"x-artifact-sha256": "sha256", b"x-request-id": "request_id"}


class RequestLog:
    """ASGI middleware around everything: writes a line when an answer has ended, or was broken off."""

    def __init__(self, app: ASGIApp, lines: Lines) -> None:
        self.app, self.lines = app, lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http" or scope.get("state", {}).get(PRIVATE):  # the first process asks a worker
            await self.app(scope, receive, send)
            return
        begun, start = datetime.now(UTC), time.perf_counter()
        line: dict[str, str | int | float | None] = {"status": None, "received": 0, "sent": 0}
        ended = False

        async def given() -> Message:
            message = await receive()
            line["received"] += len(message.get("body", b""))  # type: ignore[operator]
            return message

        async def watched(message: Message) -> None:
            nonlocal ended
            if message["type"] == "http.response.start":
                line["status"] = message["status"]
                for name, value in message["headers"]:
                    if name.lower() in TOLD:
                        line[TOLD[name.lower()]] = value.decode("latin-1")
            elif message["type"] == "http.response.body":
                line["sent"] += len(message.get("body", b""))  # type: ignore[operator]
                ended = not message.get("more_body", False)
            await send(message)

        try:
            await self.app(scope, given, watched)
        finally:
            about = {
                "time": begun.isoformat(timespec="milliseconds"),
                "level": _level(line["status"], ended),
                "client": (scope.get("client") or ("",))[0],
                "method": scope["method"],
                "path": scope["path"][:200],
                "milliseconds": round((time.perf_counter() - start) * 1e3, 3),
            }
            number = scope.get("state", {}).get("number")
            self.lines.put(json.dumps(about | {"request_id": number} | line))


def _level(status: object, ended: bool) -> str:
    """As collectors name it: an answer of 500 or more is an error, one that nobody got a warning."""
    if isinstance(status, int) and status >= 500:
        return "error"
    return "info" if ended and isinstance(status, int) and status < 400 else "warning"
