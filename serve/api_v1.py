"""`/v1`: pictures as they are, answers as JSON."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from serve.answer import answer_of
from serve.asking import AT_ONCE, ask, in_turn, while_connected
from serve.bodies import MOST_BATCH, MOST_PICTURE, PARAMETERS, Sent, pictures, too_large
from serve.engine import Engine, Outcome
from serve.entries import mapless
from serve.problems import Problem, document, problem_of
from serve.render import answered
from serve.state import State

TOP = 5
YES, NO = ("1", "true", "yes"), ("", "0", "false", "no")
#: How curl calls what -d sends, and what --data-binary sends too.
FIELDS = "application/x-www-form-urlencoded"


def routes(state: State) -> list[Route]:
    """Its routes."""

    async def classify(request: Request) -> Response:
        engine, top, explain = _asked(state, request)
        sent = await pictures(request)
        if len(sent) != 1:
            raise Problem("bad_request", f"The form has {len(sent)} files. Send several to /v1/batch.")
        try:
            outcome = await while_connected(request, ask(state, engine, sent[0].blob, explain=explain))
        except Problem as problem:
            raise _advised(request, problem) from None
        if "text/html" in request.headers.get("accept", ""):  # our own page: what it shows, ready made
            engine.recent.put(sent[0].blob, outcome)
            return HTMLResponse(answered(answer_of(outcome)))
        return JSONResponse(told(outcome, top) | {"request_id": request.state.number})

    async def batch(request: Request) -> Response:
        engine, top, explain = _asked(state, request)
        sent = await pictures(request, MOST_BATCH)
        lines = _lines(state, engine, sent, top, explain)
        return StreamingResponse(lines, media_type="application/x-ndjson")

    async def artifacts(request: Request) -> Response:
        default = state.engine(None).entry.key
        return JSONResponse(
            {
                "artifacts": [
                    about(engine) | {"default": key == default} for key, engine in state.engines.items()
                ]
            }
        )

    return [
        Route("/v1/classify", classify, methods=["POST"]),
        Route("/v1/batch", batch, methods=["POST"]),
        Route("/v1/artifacts", artifacts),
    ]


def _advised(request: Request, problem: Problem) -> Problem:
    """With a word for those whose client took bytes out of the picture: `curl -d` drops ends of lines."""
    kind = request.headers.get("content-type", "")
    if problem.code not in ("not_an_image", "truncated", "damaged") or not kind.startswith(FIELDS):
        return problem
    text = f"{problem.message} With curl send it by --data-binary @photo.jpg: -d leaves bytes out."
    return Problem(problem.code, text, problem.status, problem.headers)


def told(outcome: Outcome, top: int) -> dict[str, Any]:
    """What is said of one picture."""
    found = answer_of(outcome)
    body = found.document()
    times = {stage: round(body.pop(f"{stage}_ms"), 3) for stage in ("decode", "queue", "model")}
    body |= {"top": body["top"][:top], "milliseconds": times, "batch": outcome.batch}
    if outcome.heatmap is not None:
        heatmap = np.ascontiguousarray(outcome.heatmap, "<f4")
        body["heatmap"] = {
            "shape": list(heatmap.shape),
            "dtype": "float32",
            "base64": base64.b64encode(heatmap.tobytes()).decode(),
        }
    return body


def about(engine: Engine) -> dict[str, Any]:
    """What a program may want to know of an artifact before it asks."""
    entry = engine.entry
    manifest, session = entry.artifact.manifest, entry.predictor and entry.predictor.session
    return {
        "name": entry.key,
        "sha256": manifest["sha256"],
        "parity": entry.artifact.verdict,
        "runs": session is not None,
        "reason": entry.reason,
        "backend": session.backend if session else None,
        "device": session.device if session else None,
        "target": manifest["target"],
        "precision": manifest["precision"],
        "size": manifest["input"]["height"],
        "labels": manifest["labels"],
        "accuracy": manifest.get("accuracy"),
        "heatmap": entry.explains,
    }


def _asked(state: State, request: Request) -> tuple[Engine, int, bool]:
    """The query: ``artifact``, ``top`` and ``explain``. Raises `Problem` for a value that is none, and for a
    name that is not known.
    """
    query = request.query_params
    for name in query:
        if name not in PARAMETERS:
            raise Problem(
                "bad_parameter", f"There is no parameter '{name[:40]}'. There are artifact, top and explain."
            )
        if len(query.getlist(name)) > 1:
            raise Problem("bad_parameter", f"The parameter {name} is given more than once.")
    engine = state.engine(query.get("artifact"))
    classes = len(engine.entry.artifact.manifest["labels"])
    top, explain = query.get("top", str(min(TOP, classes))), query.get("explain", "").lower()
    if not (top.isascii() and top.isdigit() and len(top) < 10 and 1 <= int(top) <= classes):
        raise Problem(
            "bad_parameter", f"The parameter top is '{top[:40]}'; it must be a number from 1 to {classes}."
        )
    if explain not in YES + NO:
        raise Problem(
            "bad_parameter", f"The parameter explain is '{explain[:40]}'; it must be true or false."
        )
    if explain in YES and not engine.entry.explains:
        able = [key for key, each in state.engines.items() if each.entry.explains]
        raise Problem("no_heatmap", mapless(engine.entry.key, able))
    return engine, int(top), explain in YES


async def _lines(
    state: State, engine: Engine, sent: list[Sent], top: int, explain: bool
) -> AsyncIterator[bytes]:
    """A line of JSON a picture as soon as it is answered, a failed one's with its problem; the stream's end
    is that of the pictures.
    """
    gate = asyncio.Semaphore(AT_ONCE)

    async def line(index: int, picture: Sent) -> bytes:
        row: dict[str, Any] = {"index": index, "name": picture.name}
        try:
            if len(picture.blob) > MOST_PICTURE:
                state.metrics.pictures.labels(engine.entry.key, "refused").inc()
                raise too_large(MOST_PICTURE)
            outcome = await in_turn(state, engine, gate, picture.blob, explain)
            row |= told(outcome, top)
        except Exception as error:
            row |= document(problem_of(error), "")
            del row["error"]["request_id"]
        return json.dumps(row).encode() + b"\n"

    tasks = [asyncio.ensure_future(line(index, picture)) for index, picture in enumerate(sent)]
    try:
        for done in asyncio.as_completed(tasks):
            yield await done
    finally:
        for task in tasks:
            task.cancel()
