"""What the page may run: its own files, and what stands in the answer itself, by its hash."""

from __future__ import annotations

import asyncio
import base64
import re
from hashlib import sha256
from typing import Any

import pytest

from serve.csp import EARLY, Scripts, policy

INLINE = b"let a = 1;\n"


def hash_of(text: bytes) -> str:
    return "sha256-" + base64.b64encode(sha256(text).digest()).decode()


def test_a_policy_names_the_page_s_own_scripts_and_nothing_else() -> None:
    page = (
        b"<script>%s</script><script type=module src=./a.js></script><SCRIPT a='b'>2\r\n3</SCRIPT>" % INLINE
    )
    told = dict(part.strip().split(" ", 1) for part in policy(page).split(";"))
    hashes = [f"'{hash_of(text)}'" for text in (INLINE, b"2\n3")]
    assert told["script-src"].split() == ["'self'", *hashes]
    assert told["default-src"] == told["connect-src"] == "'self'"
    assert "unsafe" not in told["script-src"] and told["object-src"] == "'none'"


def answered(kind: bytes, *parts: bytes) -> tuple[dict[bytes, bytes], bytes, list[bytes]]:
    """Headers and body of an answer in these parts, and what its maker was asked for."""
    asked: list[bytes] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        asked.extend(name for name, _ in scope["headers"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        for number, part in enumerate(parts, 1):
            await send({"type": "http.response.body", "body": part, "more_body": number < len(parts)})

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"accept", b"text/html"), (b"accept-encoding", b"gzip")]
    asyncio.run(Scripts(app)({"type": "http", "headers": headers}, None, send))  # type: ignore[arg-type]
    body = b"".join(message.get("body", b"") for message in sent)
    return dict(sent[0]["headers"]), body, asked


def test_a_page_in_pieces_is_hashed_whole_and_anything_else_passes() -> None:
    headers, body, asked = answered(b"text/html; charset=utf-8", b"<script>let a", b" = 1;\n</script>")
    assert body == b"<script>" + INLINE + b"</script>"
    assert hash_of(INLINE) in headers[b"content-security-policy"].decode() and asked == [b"accept"]
    preview = b'<meta property="og:image" content="https://elsewhere.example/a.png" />'
    gradio = b"<title>x</title><script>window.gradio_config = {};</script>"
    headers, body, _ = answered(b"text/html", b"<head>" + gradio + b"\n  " + preview + b"</head>")
    assert body == b"<head>" + gradio + EARLY  # not what Gradio would have others show of it
    assert headers[b"content-length"] == str(len(body)).encode()
    other = b"<head><title>x</title></head>"
    assert answered(b"text/html", other)[1] == other
    headers, body, _ = answered(b"application/json", b"{", b"}")
    assert b"content-security-policy" not in headers and body == b"{}"


@pytest.mark.slow
def test_the_browser_runs_no_other_script(served: Any, page: Any) -> None:
    answer = page.goto(served.url)
    rule = re.search(r"script-src ([^;]*);", answer.headers["content-security-policy"])
    assert rule and "unsafe" not in rule[1]
    page.locator("#photo input[type=file]").wait_for(state="attached")
    smuggled = """text => {
        const place = document.querySelector('#answer');
        place.innerHTML = '<img src="x:" onerror="window.smuggled = 1">';
        const script = document.createElement('script');
        script.textContent = 'window.smuggled = 2';
        document.body.append(script);
        return new Promise(done => setTimeout(() => done(window.smuggled), 300));
    }"""
    assert page.evaluate(smuggled, "") is None
