"""Bodies of requests, kept in memory and within limits while they arrive; nothing is written to disk."""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from starlette.requests import ClientDisconnect

from serve.answer import MAX_MEGABYTES
from serve.problems import Problem

if TYPE_CHECKING:
    from starlette.requests import Request

#: Bytes of one picture, and of all pictures of one request.
MOST_PICTURE = MAX_MEGABYTES * 1_000_000
MOST_BATCH = 100_000_000
MOST_PICTURES = 1000
#: Seconds in which the next piece of a body must arrive, and the whole of it.
SILENCE, PATIENCE = 20.0, 300.0
LINGER = 2.0
#: Bytes of all bodies that are held at once.
MOST_HELD = 400_000_000
#: What the address of a request may say of its pictures.
PARAMETERS = ("artifact", "top", "explain")
CLOSE = {"Connection": "close"}
#: How a body of /v2 may be packed, and bytes that are unpacked at once.
PACKED = ("gzip", "x-gzip", "deflate")
PIECE = 1_000_000
#: A file's name as some clients send it (RFC 5987): charset, language, and the name in percent code.
CODED = re.compile(rb"filename\*\s*=\s*[^';]*'[^';]*'([^;\s]*)", re.IGNORECASE)


class Held:
    """How many bytes the bodies of all requests take; each request gives its ``share`` back at its end."""

    def __init__(self) -> None:
        self.total = 0

    def share(self) -> Share:
        """A request's."""
        return Share(self)


class Share:
    """What one request holds."""

    def __init__(self, held: Held) -> None:
        self._held, self._mine = held, 0

    def take(self, count: int) -> None:
        """So many bytes more. Raises `Problem` 429 where all requests together would hold too many."""
        if self._held.total + count > MOST_HELD:
            raise Problem(
                "busy", "Too many uploads are under way. Send this one again later.",
                headers=CLOSE | {"Retry-After": "2"},
            )  # fmt: skip
        self._held.total += count
        self._mine += count

    def release(self) -> None:
        """All of it."""
        self._held.total -= self._mine
        self._mine = 0


@dataclass(frozen=True)
class Sent:
    """A picture's bytes and the name that its sender gave it."""

    name: str
    blob: bytes


async def whole(request: Request, most: int = MOST_PICTURE) -> bytes:
    """The body. Raises `Problem` 413 as soon as it is longer than ``most``, 408 where it stops arriving."""
    told = request.headers.get("content-length", "")
    fits = not (told.isdigit() and int(told[:15]) > most)
    parts: list[bytes] = []
    length = 0
    stream = request.stream()
    loop = asyncio.get_running_loop()
    end = loop.time() + PATIENCE
    try:
        async with asyncio.timeout(SILENCE) as clock:
            while fits and (part := await anext(stream, b"")):
                request.state.share.take(len(part))
                parts.append(part)
                length += len(part)
                fits = length <= most
                clock.reschedule(min(end, loop.time() + SILENCE))
    except TimeoutError:
        raise Problem("timeout", "The body did not arrive in time.", headers=CLOSE) from None
    except ClientDisconnect:
        raise Problem("bad_request", "The client has left.", headers=CLOSE) from None
    if fits:
        return b"".join(parts)
    parts.clear()
    await _passed_over(stream)
    raise too_large(most)


async def _passed_over(stream: AsyncGenerator[bytes, None]) -> None:
    """Take what still comes for a moment and keep nothing: who is cut off while he sends sees no answer."""
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER):
            async for _ in stream:
                pass


def too_large(most: int) -> Problem:
    """413, and the connection is not read any further."""
    text = f"The body is larger than {most // 1_000_000} MB. Scale the picture down, or send fewer."
    return Problem("too_large", text, headers=CLOSE)


def encoding(request: Request) -> str:
    """How the body is packed: ``identity`` where it is not, or where the header says nothing."""
    return request.headers.get("content-encoding", "").strip().lower() or "identity"


async def unpacked(request: Request, body: bytes, most: int) -> bytes:
    """A body packed by gzip or deflate, as it was before; others are answered between its pieces. Raises
    `Problem`, 413 as soon as it is longer than ``most``.
    """
    if (how := encoding(request)) == "identity":
        return body
    if how not in PACKED:
        text = f"Bodies packed by '{how[:20]}' are not accepted. Take gzip or deflate, or send it as it is."
        raise Problem("unsupported_type", text)
    parts, length, packed, rest = [], 0, zlib.decompressobj(zlib.MAX_WBITS | 32), body
    try:
        while not packed.eof and (part := packed.decompress(rest, PIECE)):
            rest = packed.unconsumed_tail
            length += len(part)
            if length > most:
                raise too_large(most)
            request.state.share.take(len(part))
            parts.append(part)
            await asyncio.sleep(0)
    except zlib.error:
        packed = zlib.decompressobj()
    if not packed.eof or packed.unused_data:
        text = (
            f"The body is not whole, or not packed by {how} as one piece with its own head (zlib's, gzip's)."
        )
        raise Problem("malformed", text)
    return b"".join(parts)


async def pictures(request: Request, most: int = MOST_PICTURE) -> list[Sent]:
    """The pictures of a request: its body, or every file of a form. Raises `Problem`."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if encoding(request) != "identity":
        raise Problem("unsupported_type", "Compressed bodies are not accepted. Send the picture as it is.")
    body = await whole(request, most)
    if kind == "multipart/form-data":
        return await asyncio.to_thread(files, request.headers["content-type"], body)
    if kind == "application/json" and body.lstrip()[:1] in (b"{", b"[", b'"'):
        raise Problem(
            "unsupported_type", "This is JSON. Send the picture's bytes, or JSON to /v2: see /docs."
        )
    if not body:
        raise Problem("empty", "The body is empty. Send a picture's bytes.", 400)
    return [Sent("", body)]


def files(kind: str, body: bytes) -> list[Sent]:
    """The files of a form; fields that are no files are passed over. Raises `Problem` for a field that is
    called as a parameter is, and for a broken form.
    """
    from python_multipart import MultipartParser
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import parse_options_header

    boundary, form = parse_options_header(kind)[1].get(b"boundary", b""), _Form(parse_options_header)
    broken = Problem("malformed", "The form is not well formed. Send it as a client library does.")
    if not 1 <= len(boundary) <= 70:
        raise broken
    parser = MultipartParser(boundary, {f"on_{name}": getattr(form, name) for name in _Form.EVENTS})  # type: ignore[arg-type]
    try:
        parser.write(body)
        parser.finalize()
    except FormParserError:
        raise broken from None
    if not form.ended:
        text = "The form ends early: its last boundary is missing. Send it as a client library does."
        raise Problem("malformed", text)
    if not form.found:
        raise Problem("empty", "The form has no file. Send one: curl -F file=@photo.jpg.", 400)
    return form.found


class _Form:
    """What the parser's events tell."""

    EVENTS = ("part_begin", "part_data", "part_end", "header_field", "header_value", "header_end", "end")

    def __init__(self, options: Callable[[bytes], tuple[bytes, dict[bytes, bytes]]]) -> None:
        self.found: list[Sent] = []
        self.ended = False
        self._options = options
        self._headers: dict[bytes, bytes] = {}
        self._field, self._value, self._blob = bytearray(), bytearray(), bytearray()
        self._parts = 0

    def end(self) -> None:
        self.ended = True

    def part_begin(self) -> None:
        self._headers.clear()
        self._blob.clear()
        self._parts += 1
        if self._parts > MOST_PICTURES:
            raise Problem("too_large", f"The form has more than {MOST_PICTURES} parts. Send fewer.")

    def part_data(self, data: bytes, start: int, stop: int) -> None:
        self._blob += memoryview(data)[start:stop]

    def header_field(self, data: bytes, start: int, stop: int) -> None:
        self._field += data[start:stop]

    def header_value(self, data: bytes, start: int, stop: int) -> None:
        self._value += data[start:stop]

    def header_end(self) -> None:
        self._headers[bytes(self._field).lower()] = bytes(self._value)
        self._field.clear()
        self._value.clear()

    def part_end(self) -> None:
        told = self._options(self._headers.get(b"content-disposition", b""))[1]
        name = told.get(b"filename")
        coded = CODED.search(self._headers.get(b"content-disposition", b""))
        if name is None and coded:
            name = unquote_to_bytes(coded[1])
        field = told.get(b"name", b"").decode("utf-8", "replace")
        if name is None and field in PARAMETERS:
            text = f"The form has a field '{field}'. Parameters stand in the address: ?{field}=..."
            raise Problem("bad_parameter", text)
        if name is not None:
            self.found.append(Sent(name.decode("utf-8", "replace"), bytes(self._blob)))
