"""Below a path, and behind a reverse proxy: which address the page has for the visitor."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.responses import RedirectResponse

from lfdeploy.errors import UsageError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*")
ADDRESS = re.compile(r"(https?)://([A-Za-z0-9.:\[\]_-]+)((?:/[A-Za-z0-9._~-]+)*)/?")


class Below:
    """ASGI middleware: the page as seen from outside, below ``root_path`` or what X-Forwarded-Prefix says.

    Gradio makes its addresses from X-Forwarded-Host, which here gets the path too. A proxy may take the path
    away from requests or leave it on: both arrive.
    """

    def __init__(self, app: ASGIApp, root_path: str = "") -> None:
        self.app = app
        self.protocol, self.host, self.prefix = parts_of(root_path)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, with its outer address in its headers."""
        if scope["type"] == "http":
            if self.prefix and scope["path"] == self.prefix and scope["method"] == "GET":
                # the page's addresses are relative to where it is
                query = scope["query_string"].decode("latin-1")
                address = f"{self.prefix}/{'?' if query else ''}{query}"
                await RedirectResponse(address)(scope, receive, send)
                return
            scope = self._outside(scope)
        await self.app(scope, receive, send)

    def path(self, scope: Scope) -> str:
        """The request's path as those see it who know nothing of the proxy."""
        return str(self._outside(scope)["path"])

    def _outside(self, scope: Scope) -> Scope:
        headers = dict(reversed(scope["headers"]))  # of a header that came twice the first counts
        told = headers.get(b"x-forwarded-prefix", b"").decode("latin-1").split(",")[0].strip().rstrip("/")
        prefix = self.prefix or (told if PATH.fullmatch(told) else "")
        if not prefix and not self.host:
            return scope
        host = self.host.encode() or headers.get(b"x-forwarded-host") or headers.get(b"host", b"")
        ours = [(b"x-forwarded-host", host.split(b",")[0].strip() + prefix.encode())]
        if self.protocol:
            ours.append((b"x-forwarded-proto", self.protocol.encode()))
        replaced = {name for name, _ in ours}
        path = scope["path"]
        if prefix and (path == prefix or path.startswith(f"{prefix}/")):
            path = path[len(prefix) :] or "/"
        kept = [(name, value) for name, value in scope["headers"] if name not in replaced]
        return {**scope, "path": path, "raw_path": quote(path).encode(), "headers": kept + ours}


def parts_of(root_path: str) -> tuple[str, str, str]:
    """Protocol, host and path of ``/demo`` or ``https://example.org/demo``. Raises `UsageError` for
    anything else.
    """
    address = ADDRESS.fullmatch(root_path)
    if address:
        return address[1], address[2], address[3]
    path = root_path.rstrip("/")
    if not PATH.fullmatch(path):
        text = f"--root-path is '{root_path}'; write a path like /demo, or an address like https://example.org/demo."
        raise UsageError(text)
    return "", "", path
