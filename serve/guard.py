"""What Gradio would do for a visitor and this page must not: open files of the machine, fetch from
the internet.

Gradio checks paths only after `launch()`; a mounted page copies any file a client names into its cache, and
downloads any address. Here a component takes nothing but what was uploaded to it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.responses import PlainTextResponse

from lfdeploy.errors import sentence
from serve.requests import MOST_BODY, MULTIPART, refusal, refusal_of_stream
from serve.rest import Rest
from serve.said import say

if TYPE_CHECKING:
    from threading import Event

    import gradio as gr
    from starlette.types import ASGIApp, Receive, Scope, Send

#: Routes that fetch on a visitor's behalf, or that no page of ours uses.
REFUSED = re.compile(
    r"^(/gradio_api)?/(proxy=|file[=/]\s*[a-z]+:/|process_recording|(undo-)?vibe-)", re.IGNORECASE
)


def seal(*components: Any) -> None:
    """Let components take files only from the upload folder."""
    for component in components:
        component.async_move_resource_to_block_cache = _taker(Path(component.GRADIO_CACHE).resolve())


def _taker(uploads: Path) -> Any:
    async def take(given: str | Path | None) -> str | None:
        if given is None:
            return None
        path = Path(given).resolve()  # an address resolves to a path below the working directory
        if not path.is_relative_to(uploads):
            import gradio as gr

            raise gr.Error("Only uploaded files are accepted, not paths or addresses.", print_exception=False)
        return str(path)

    return take


class Guard:
    """ASGI middleware: 403 for the refused routes, 4xx in one sentence for what no page sends, 503 while
    it stops.
    """

    def __init__(self, app: ASGIApp, page: gr.Blocks, closing: Event, rest: Rest | None = None) -> None:
        self.app, self.page, self.closing = app, page, closing
        self.rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if REFUSED.match(scope["path"]):
            refused: tuple[int, str] | None = (403, "Refused: this page fetches nothing.")
        elif scope["method"] == "POST":
            if self.rest is not None:
                self.rest.wake()
            refused, receive = await self._posted(scope, receive)
        else:
            refused = refusal_of_stream(self.page, scope["path"], scope["query_string"].decode("latin-1"))
        if refused:
            headers = {"Connection": "close"} | ({"Retry-After": "10"} if refused[0] == 503 else {})
            await PlainTextResponse(refused[1], refused[0], headers)(scope, receive, send)
            return
        await self._answered(scope, receive, send)

    async def _posted(self, scope: Scope, receive: Receive) -> tuple[tuple[int, str] | None, Receive]:
        """Why a POST is refused, if it is, and a ``receive`` that has its body still."""
        if self.closing.is_set():
            return (503, "The server is stopping. Send it again in a moment."), receive
        kind = dict(scope["headers"]).get(b"content-type", b"").strip()
        if kind.lower().startswith(b"multipart/"):
            return (
                None
                if MULTIPART.fullmatch(kind)
                else (400, "The upload's multipart boundary is missing or too long.")
            ), receive
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if message["type"] == "http.disconnect" or len(body) > MOST_BODY:
                return (
                    413,
                    f"The body is larger than {MOST_BODY // 1000} kB. Upload pictures to /gradio_api/upload.",
                ), receive
            if not message.get("more_body"):
                break
        pending = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Any:
            return pending.pop() if pending else await receive()

        return refusal(self.page, scope["path"], body), again

    async def _answered(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on; what it breaks there before an answer began is its own fault, and a 400.

        A full disk or memory is the server's: that is said here, and a 503 to the visitor.
        """
        begun = failed = False
        fault: Exception | None = None

        async def watch(message: Any) -> None:
            nonlocal begun, failed
            if message["type"] == "http.response.start":
                failed = message["status"] == 500
                begun = not failed
            if not failed:
                await send(message)

        try:
            await self.app(scope, receive, watch)
        except Exception as error:  # an answer that had begun just ends; uvicorn closes the connection
            failed, fault = not begun, error
        if failed:
            await _told(fault)(scope, receive, send)


def _told(fault: Exception | None) -> PlainTextResponse:
    if isinstance(fault, (OSError, MemoryError)) and not isinstance(fault, ConnectionError):
        say(
            "A request failed: "
            f"{sentence(fault) if isinstance(fault, OSError) else 'there is no memory left.'}"
        )
        return PlainTextResponse(
            "The server cannot take a picture now. Try again later.", 503, {"Connection": "close"}
        )
    return PlainTextResponse("The request is malformed.", 400, {"Connection": "close"})
