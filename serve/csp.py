"""What scripts the page may run: its own files, and those in the page itself by the hash of their text.

Whatever a file's name or a visitor's text might smuggle in, the browser runs nothing else, and asks nobody
else. Gradio writes a few scripts into each page that it sends, so the hashes are those of the very answer.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

SCRIPT = re.compile(rb"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.DOTALL | re.IGNORECASE)
#: What Gradio would have others show of the page: its own name and picture, from elsewhere.
PREVIEW = re.compile(rb"\s*<meta\s+(?:property|name)=\"(?:og|twitter):[^>]*>", re.IGNORECASE)
#: What Gradio's page has before Gradio draws it: a description, and places for what comes, lest it jump.
EARLY = (
    '<meta name="description" content="Show it a picture, and it says what it is.">'
    f"<style>{Path(__file__).with_name('early.css').read_text(encoding='utf-8')}</style></head>"
).encode()
POLICY = (
    "default-src 'self'; script-src 'self'{hashes}; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; connect-src 'self'; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)


def policy(page: bytes) -> str:
    """The header for a page in HTML. A browser reads every line's end as one newline before it hashes."""
    texts = [text.replace(b"\r\n", b"\n").replace(b"\r", b"\n") for text in SCRIPT.findall(page)]
    hashes = dict.fromkeys(base64.b64encode(sha256(text).digest()).decode() for text in texts)
    return POLICY.format(hashes="".join(f" 'sha256-{value}'" for value in hashes))


class Scripts:
    """ASGI middleware: gives every HTML answer that has no policy its own; all others pass as they come."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, asking for an answer that is not compressed."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun: Message | None = None
        body = bytearray()

        async def held(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start" and _is_page(message["headers"]):
                begun = message
            elif begun is not None:
                body.extend(message.get("body", b""))
                if not message.get("more_body", False):
                    page = _early(bytes(body))
                    told = [(b"content-security-policy", policy(page).encode())]
                    told.append((b"content-length", str(len(page)).encode()))
                    kept = [row for row in begun["headers"] if row[0].lower() != b"content-length"]
                    await send({**begun, "headers": [*kept, *told]})
                    await send({**message, "body": page})
            else:
                await send(message)

        plain = [(name, value) for name, value in scope["headers"] if name.lower() != b"accept-encoding"]
        await self.app(scope if _takes_no_page(scope) else {**scope, "headers": plain}, receive, held)


def _early(page: bytes) -> bytes:
    """Gradio's page without its previews and with what it lacks at first; any other as it is."""
    return PREVIEW.sub(b"", page).replace(b"</head>", EARLY, 1) if b"gradio_config" in page else page


def _takes_no_page(scope: Scope) -> bool:
    """Whether the sender asks for something else than a page: then it may come compressed."""
    return not any(name.lower() == b"accept" and b"text/html" in value for name, value in scope["headers"])


def _is_page(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    known = {name.lower(): value for name, value in headers}
    bare = b"content-encoding" not in known and b"content-security-policy" not in known
    return bare and known.get(b"content-type", b"").startswith(b"text/html")
