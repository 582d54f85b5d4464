"""What a program is told when there is no answer: a status, a stable code, one sentence."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Mapping
from itertools import count
from typing import Any

from starlette.responses import Response

from lfdeploy.errors import LfdeployError, PictureError
from serve.engine import Busy, Late
from serve.said import say

#: Codes of problems that are not a picture's, with their status; those of pictures are `PictureError`'s.
STATUS = {
    "bad_request": 400,
    "bad_parameter": 400,
    "malformed": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "cross_site": 403,
    "not_found": 404,
    "unknown_artifact": 404,
    "method_not_allowed": 405,
    "timeout": 408,
    "no_heatmap": 409,
    "swap_refused": 409,
    "too_large": 413,
    "unsupported_type": 415,
    "wrong_host": 421,
    "busy": 429,
    "head_too_large": 431,
    "internal": 500,
    "cannot_run": 503,
    "late": 503,
    "stopping": 503,
}


START, COUNT = secrets.token_hex(4), count()


class Problem(Exception):
    """An answer that is none: raised anywhere in a handler, sent by `response`."""

    def __init__(
        self,
        code: str,
        message: str,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code, self.message = code, message
        self.status = STATUS[code] if status is None else status
        self.headers = dict(headers or {})


def problem_of(error: BaseException) -> Problem:
    """The problem behind an exception of the engine; what nobody expected is told at the terminal and not
    sent.
    """
    if isinstance(error, Problem):
        return error
    if isinstance(error, PictureError):
        text = str(error)
        return Problem(error.code, text[:1].upper() + text[1:], error.status)
    if isinstance(error, Busy):
        return Problem("busy", str(error), headers={"Retry-After": str(max(1, math.ceil(error.seconds)))})
    if isinstance(error, Late):
        return Problem("late", str(error), headers={"Retry-After": "1"})
    if isinstance(error, LfdeployError):
        return Problem("cannot_run", str(error))
    say(f"lfdeploy serve: a request failed: {type(error).__name__}: {error}")
    return Problem("internal", "The server failed on this picture; its terminal says why.")


def document(problem: Problem, number: str) -> dict[str, Any]:
    """The body: `{"error": {"code", "message", "request_id"}}`."""
    return {"error": {"code": problem.code, "message": problem.message, "request_id": number}}


def response(problem: Problem, number: str, plain: bool = False) -> Response:
    """The problem as JSON; ``plain`` as the Open Inference Protocol wants it: `{"error": "sentence"}`."""
    body: Any = {"error": problem.message} if plain else document(problem, number)
    headers = {"X-Error-Code": problem.code, "X-Request-Id": number} | problem.headers
    return Response(json.dumps(body), problem.status, headers, "application/json")


def request_number() -> str:
    """A number that the answer, the log and the visitor can name a request by."""
    return f"{START}{next(COUNT):08x}"
