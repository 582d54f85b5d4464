"""What Gradio would do for a visitor and this page must not: open files of the machine, fetch from the internet.

Gradio checks paths only after `launch()`; a mounted page copies any file a client names into its cache, and
downloads any address. Here a component takes nothing but what was uploaded to it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.responses import PlainTextResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

#: Routes that fetch on a visitor's behalf, or that no page of ours uses.
REFUSED = re.compile(r"^(/gradio_api)?/(proxy=|file[=/]\s*[a-z]+:/|process_recording|(undo-)?vibe-)", re.IGNORECASE)


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
    """ASGI middleware: 403 for the refused routes."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] == "http" and REFUSED.match(scope["path"]):
            await PlainTextResponse("Refused: this page fetches nothing.", 403)(scope, receive, send)
            return
        await self.app(scope, receive, send)
