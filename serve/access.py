"""Who may ask: the host's name, the page that a browser sends from, and the token."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from lfdeploy.errors import UsageError
from serve.problems import Problem, request_number, response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LIVE = ("/health/live", "/v2/health/live")
READY = ("/health/ready", "/v2/health/ready")
#: Gradio's own files, whose names change with what is in them.
HASHED = re.compile(r"/assets/[^/]+-[\w-]{8,}\.(js|css|woff2)$")
LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})
TOKEN = re.compile(r"[\x21-\x7e]{16,500}")
PORTS = {"http": 80, "https": 443}
#: Nothing is guessed from bytes, nobody puts the page into a frame of his own, no address leaks.
HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"content-security-policy": b"frame-ancestors 'self'",
    b"referrer-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
}


@dataclass(frozen=True)
class Rules:
    """``hosts`` that may stand in a Host header (empty: any), and the token (empty: none is asked for)."""

    hosts: frozenset[str] = frozenset()
    token: str = ""


def rules_of(host: str, root_path: str, token_file: str | Path = "") -> Rules:
    """The rules of a server that listens on ``host`` and is shown at ``root_path``.

    On this machine alone, a browser is the only way in for others: there only this machine's names count. A
    server that others reach, or that stands behind a proxy, cannot know its names. Raises `UsageError` for a
    token that is none.
    """
    if not host.strip():
        raise UsageError("--host is empty; write an address, or leave it out for 127.0.0.1.")
    token = read_token(token_file) if token_file else ""
    told = urlsplit(root_path).hostname if "://" in root_path else None
    if not loopback(host) or token or (root_path and not told):
        return Rules(frozenset(), token)
    return Rules(LOOPBACK | {host.lower()} | ({told} if told else set()), token)


def read_token(path: str | Path) -> str:
    """The token in a file, 16 to 500 printable characters. Raises `UsageError`."""
    try:
        text = Path(path).read_text(encoding="ascii").strip()
    except OSError as error:
        raise UsageError(f"--token-file {path} cannot be read: {error.strerror}.") from None
    except ValueError:
        text = ""
    if not TOKEN.fullmatch(text):
        raise UsageError(
            f"--token-file {path} must hold one word of 16 to 500 printable characters. Make one: "
            "openssl rand -hex 16 > token"
        )
    return text


def loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Access:
    """ASGI middleware around everything: refuses by the rules, numbers requests, adds the headers."""

    def __init__(self, app: ASGIApp, rules: Rules) -> None:
        self.app, self.rules = app, rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http":  # a socket to the page's events, or none of ours
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        number = request_number()
        state = scope.setdefault("state", {})
        state.update(number=number, trusted=False)
        try:
            if sum(name == b"host" for name, _ in scope["headers"]) > 1:  # who knows which one others take
                raise Problem("bad_request", "The request names more than one host.")
            if scope["path"] not in LIVE:
                state["trusted"] = self._admit(scope["method"], headers, _nameless(scope, headers))
        except Problem as problem:
            plain = scope["path"].startswith("/v2")
            await response(problem, number, plain)(scope, receive, _with_headers(send))
            return
        await self.app(scope, receive, _with_headers(send, bool(HASHED.search(scope["path"]))))

    def _admit(self, method: str, headers: Mapping[str, str], nameless: bool) -> bool:
        """Whether the sender has the token. Raises `Problem` for those who may not ask. ``nameless``: the
        request need not name a host.
        """
        host = _name(headers.get("host", ""))
        if self.rules.hosts and not host and not nameless:
            raise Problem("bad_request", "The request names no host.")
        if self.rules.hosts and not nameless and host not in self.rules.hosts:
            raise Problem(
                "wrong_host",
                f"This server is not called '{host[:80]}'. Open it as http://localhost, or start it with "
                "--root-path and its whole address.",
            )
        if method not in ("GET", "HEAD", "OPTIONS"):
            _same_site(headers)
        if not self.rules.token:
            return False
        if not hmac.compare_digest(
            _token(headers.get("authorization", "")).encode(), self.rules.token.encode()
        ):
            # a browser asks for it by a window of its own: any user, the token as the password
            raise Problem(
                "unauthorized",
                "Send the token: Authorization: Bearer TOKEN.",
                headers={"WWW-Authenticate": 'Basic realm="lfdeploy serve", charset="UTF-8"'},
            )
        return True


def _nameless(scope: Scope, headers: Mapping[str, str]) -> bool:
    """Whether it asks for health by HTTP/1.0, as some who watch servers do; no browser speaks that."""
    return scope.get("http_version") == "1.0" and "host" not in headers and scope["path"] in READY


def _name(host: str) -> str:
    """A Host header's name without its port."""
    found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:]*)(:\d*)?", host.strip())
    return (found[1] if found else host).lower()


def _same_site(headers: Mapping[str, str]) -> None:
    """Raise `Problem` where a browser says that another site's page sends this."""
    site, origin = headers.get("sec-fetch-site", ""), headers.get("origin", "")
    if site == "cross-site":
        raise Problem("cross_site", "Another site's page may not send pictures here.")
    if site or not origin:
        return
    scheme = origin.partition("://")[0].lower()
    outside = headers.get("x-forwarded-host", "").split(",")[0].strip().split("/")[0]
    ours = {_place(scheme, host) for host in (headers.get("host", ""), outside) if host}
    place = _place(scheme, origin.partition("://")[2])
    if place is None or place not in ours:
        raise Problem(
            "cross_site",
            f"Another site's page may not send pictures here: this one is of {origin[:80]}, the request is "
            f"for '{headers.get('host', '')[:80]}'. If both are this server, let the proxy before it pass on "
            "the Host header with its port (nginx: proxy_set_header Host $http_host).",
        )


def _place(scheme: str, host: str) -> tuple[str, int | None] | None:
    """A host's name and port, as a browser of that scheme understands them; None for what is none."""
    try:
        parts = urlsplit(f"//{host.strip()}")
        port = parts.port
    except ValueError:
        return None
    if not parts.hostname or parts.path or parts.query:
        return None
    return parts.hostname, port if port is not None else PORTS.get(scheme)


def _token(header: str) -> str:
    """The token of a Bearer header, or the password of a Basic one."""
    kind, _, value = header.partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    if kind.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (ValueError, binascii.Error):
            return ""
    return ""


def _with_headers(send: Send, lasts: bool = False) -> Send:
    """``lasts``: what is sent never changes, so that a browser need not ask for it again."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {name.lower() for name, _ in message["headers"]}
            kept = b"private, max-age=31536000, immutable"
            cache = kept if lasts and message["status"] in (200, 304) else b"no-cache"
            wanted = {**HEADERS, b"cache-control": cache}
            added = [(name, value) for name, value in wanted.items() if name not in present]
            message = {**message, "headers": [*message["headers"], *added]}
        await send(message)

    return sent
