"""A client of `lfdeploy serve` for programs: one kept connection, answers as `Prediction`s, errors as they
are told.
"""

from __future__ import annotations

import io
import json
import ssl
import time
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import SplitResult, quote, urlencode, urlsplit

from PIL import Image

from lfdeploy.errors import LfdeployError
from lfdeploy.images import Given, decode, unread
from lfdeploy.predict import Prediction


class ServerError(LfdeployError):
    """What the server said instead of an answer: its sentence, ``status`` and stable ``code``.

    ``retry_after``: in how many seconds to ask again, where it said so.
    """

    def __init__(self, message: str, status: int, code: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.retry_after = status, code, retry_after


class Client:
    """A connection to a server at ``url``, kept between calls; not for several threads at once.

    ``token`` is what its ``--token-file`` holds. Use it in a ``with`` block, or `close` it.
    """

    def __init__(self, url: str = "http://127.0.0.1:7860", *, token: str = "", timeout: float = 60) -> None:
        parts = _parts(url)
        word = token.strip()
        if not word.isascii() or not word.isprintable():
            raise LfdeployError("The token has characters that none may have; pass what --token-file holds.")
        self._base = quote(parts.path.rstrip("/"), safe="/%")
        self._headers = {"Authorization": f"Bearer {word}"} if word else {}
        name, port = parts.hostname or "", parts.port
        self._connection = (
            HTTPSConnection(name, port, timeout=timeout, context=ssl.create_default_context())
            if parts.scheme == "https"
            else HTTPConnection(name, port, timeout=timeout)
        )
        self.url, self._timeout = url, timeout

    def predict(self, picture: Given, *, top: int | None = None, artifact: str | None = None) -> Prediction:
        """The answer for a path, a file's bytes, a Pillow picture or an array uint8 (H, W), (H, W, 3 or 4).

        ``top``: how many classes, at most five by default.

        Raises `ServerError`, and `LfdeployError` where nobody answers.
        """
        asked = {"top": top, "artifact": artifact}
        query = urlencode({key: value for key, value in asked.items() if value is not None})
        told = self._request("POST", f"/v1/classify?{query}", _bytes_of(picture))
        name = str(picture) if isinstance(picture, (str, Path)) else "picture 0"
        try:
            return Prediction(
                name,
                tuple((row["label"], row["probability"]) for row in told["top"]),
                tuple(told["notes"]),
                decode_ms=told["milliseconds"]["decode"],
                abstain=told["abstain"],
                unfamiliar=told.get("unfamiliar"),
            )
        except (KeyError, TypeError):
            raise _foreign(200) from None

    def artifacts(self) -> list[dict[str, Any]]:
        """What is served: ``name``, ``sha256``, ``parity``, ``labels`` and more of each."""
        found = self._request("GET", "/v1/artifacts").get("artifacts")
        if not isinstance(found, list):
            raise _foreign(200)
        return found

    def ready(self) -> bool:
        """Whether it takes pictures; False where nobody answers, too."""
        try:
            return self._request("GET", "/health/ready").get("ready") is True
        except LfdeployError:
            return False

    def close(self) -> None:
        """Let the connection go."""
        self._connection.close()

    def __enter__(self) -> Client:
        """The client."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def _request(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        for again in (True, False):
            fresh = self._connection.sock is None
            try:
                self._connection.request(method, self._base + path, body, self._headers)
                with self._connection.getresponse() as reply:
                    status, headers, text = reply.status, reply.headers, reply.read()
                break
            except (HTTPException, OSError) as error:
                self._connection.close()
                if isinstance(error, TimeoutError):
                    raise LfdeployError(
                        f"The server at {self.url} did not answer within {self._timeout:g} s. It may be "
                        "busy: ask again later, or wait longer with Client(url, timeout=SECONDS)."
                    ) from None
                # a kept connection may have been closed meanwhile: once more
                if fresh or not again:
                    raise LfdeployError(
                        f"Nobody answers at {self.url}: {error}. Start it with: lfdeploy serve"
                    ) from None
        return _told(status, headers.get("retry-after"), text)


def _parts(url: str) -> SplitResult:
    """An address in its parts. Raises `LfdeployError` for what is none."""
    try:
        parts = urlsplit(url)
        name, _ = parts.hostname or "", parts.port  # a port that is no number, or too large, is a ValueError
        name.encode("idna")  # so is a name that no machine can have
    except ValueError:
        name = ""
    if not name or parts.scheme not in ("http", "https"):
        raise LfdeployError(f"'{url}' is no address of a server; write http://HOST:PORT.")
    return parts


def _told(status: int, wait: str | None, text: bytes) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise _foreign(status) from None
    if not isinstance(document, dict):
        raise _foreign(status)
    error = document.get("error")
    if isinstance(error, dict):
        raise ServerError(f"{error.get('message')}", status, str(error.get("code")), _seconds(wait))
    if status >= 400:
        raise _foreign(status)
    return document


def _foreign(status: int) -> ServerError:
    return ServerError(f"No answer of lfdeploy serve (status {status}).", status, "foreign")


def _seconds(wait: str | None) -> float | None:
    """Of a Retry-After: a number, or a date; None for neither."""
    if not wait:
        return None
    try:
        return float(wait) if wait.strip().isdigit() else _until(wait)
    except ValueError:
        return None


def _until(date: str) -> float:
    return max(0.0, parsedate_to_datetime(date).timestamp() - time.time())


def _bytes_of(picture: Given) -> bytes:
    """A file's bytes as they are; pixels as a PNG, which loses nothing."""
    if isinstance(picture, (bytes, bytearray, memoryview)):
        return bytes(picture)
    if isinstance(picture, (str, Path)):
        try:
            return Path(picture).read_bytes()
        except OSError as error:
            raise LfdeployError(f"{picture} cannot be read: {error.strerror}.") from None
    if isinstance(picture, Image.Image) and (file := unread(picture)):
        return file
    blob = io.BytesIO()
    decode(picture).image.save(blob, "PNG", compress_level=1)
    return blob.getvalue()
