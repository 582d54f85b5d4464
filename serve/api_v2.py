"""`/v2`: the Open Inference Protocol over REST, with its binary and classification extensions, as Triton
has it.

Source: kserve/open-inference-protocol, specification/protocol/inference_rest.md; Triton's
extension_model_repository.md and extension_model_configuration.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lfdeploy import __version__
from serve import tensors
from serve.asking import ask_all, while_connected
from serve.bodies import MOST_BATCH, unpacked, whole
from serve.entries import Entry
from serve.problems import Problem
from serve.state import State
from serve.swap import swap

OUTPUTS = ("logits", "probabilities")
#: Bytes that are parsed at once; more would keep others waiting.
SMALL = 200_000
EXTENSIONS = ["binary_tensor_data", "classification", "model_configuration", "model_repository"]


def routes(state: State) -> list[Route]:
    """Its routes; those of a model also with its version."""
    found = [*_server(state), *_repository(state)]
    for path, handler, method in _model(state):
        for version in ("/versions/{version}", ""):
            found.append(Route(f"/v2/models/{{model:path}}{version}{path}", handler, methods=[method]))
    return found


def _server(state: State) -> list[Route]:
    async def server(request: Request) -> Response:
        return JSONResponse({"name": "lfdeploy", "version": __version__, "extensions": EXTENSIONS})

    async def live(request: Request) -> Response:
        return Response(status_code=200)

    async def ready(request: Request) -> Response:
        return Response(status_code=200 if state.ready else 503)

    return [
        Route("/v2", server),
        Route("/v2/health/live", live),
        Route("/v2/health/ready", ready),
        Route("/v2/models/stats", statistics),
    ]


async def statistics(request: Request) -> Response:
    """What Triton counts by model is counted elsewhere here."""
    raise Problem("not_found", "There are no statistics at /v2. What is counted stands at /metrics.")


def _repository(state: State) -> list[Route]:
    async def index(request: Request) -> Response:
        rows = [
            {
                "name": entry.key,
                "version": "1",
                "state": "READY" if entry.predictor else "UNAVAILABLE",
                "reason": entry.reason,
            }
            for entry in state.entries
        ]
        return JSONResponse(rows)

    async def load(request: Request) -> Response:
        if not request.state.trusted:
            text = "Replacing an artifact takes a token: lfdeploy serve --token-file FILE."
            raise Problem("forbidden", text)
        if tensors.parameters(await whole(request, SMALL)):
            text = "An artifact is loaded as it lies there: send neither a configuration nor files."
            raise Problem("bad_request", text)
        model = request.path_params["model"]
        await asyncio.to_thread(swap, state, model)
        if state.team is not None:
            await state.team.load(f"/v2/repository/models/{quote(model)}/load")
        return JSONResponse({})

    return [
        Route("/v2/repository/index", index, methods=["POST"]),
        Route("/v2/repository/models/{model:path}/load", load, methods=["POST"]),
    ]


def _model(state: State) -> list[tuple[str, Callable[[Request], Awaitable[Response]], str]]:
    """What follows a model's name, and who answers it."""

    async def infer(request: Request) -> Response:
        return await _infer(state, request)

    async def ready(request: Request) -> Response:
        return Response(status_code=200 if state.ready and _entry(state, request).predictor else 503)

    async def metadata(request: Request) -> Response:
        if request.path_params["model"].endswith("/infer"):
            raise HTTPException(405, headers={"Allow": "POST"})
        return JSONResponse(_metadata(_entry(state, request)))

    async def configuration(request: Request) -> Response:
        return JSONResponse(_configuration(_entry(state, request)))

    return [
        ("/infer", infer, "POST"),
        ("/ready", ready, "GET"),
        ("/config", configuration, "GET"),
        ("/stats", statistics, "GET"),
        ("", metadata, "GET"),
    ]


async def _infer(state: State, request: Request) -> Response:
    entry = _entry(state, request)
    if entry.predictor is None:
        raise Problem("cannot_run", entry.cannot)
    body = await unpacked(request, await whole(request, MOST_BATCH), MOST_BATCH)
    length = request.headers.get(tensors.LENGTH)
    given = (body, length, str(entry.artifact.manifest["input"]["name"]), entry.predictor.size, OUTPUTS)
    asked = tensors.parse(*given) if len(body) < SMALL else await asyncio.to_thread(tensors.parse, *given)
    outcomes = await while_connected(request, ask_all(state, state.engines[entry.key], asked.rows))
    values = {output: np.stack([getattr(outcome, output) for outcome in outcomes]) for output in OUTPUTS}
    text, headers = tensors.written(entry.key, asked, values, entry.predictor.labels)
    used = dict.fromkeys(outcome.entry.artifact.manifest["sha256"] for outcome in outcomes)
    return Response(text, headers=headers | {"X-Artifact-Sha256": ", ".join(used)})


def _entry(state: State, request: Request) -> Entry:
    """The model of the path. Raises `Problem` for a name or a version that is not there."""
    entry = state.engine(request.path_params["model"]).entry
    if request.path_params.get("version", "1") != "1":
        raise Problem("unknown_artifact", f"{entry.key} has version 1 alone.")
    return entry


def _metadata(entry: Entry) -> dict[str, Any]:
    manifest = entry.artifact.manifest
    size, classes = manifest["input"]["height"], len(manifest["labels"])
    return {
        "name": entry.key,
        "versions": ["1"],
        "platform": f"lfdeploy_{manifest['format']}",
        "inputs": [
            {"name": manifest["input"]["name"], "datatype": "UINT8", "shape": [-1, size, size, 3]},
            {"name": tensors.ENCODED, "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [{"name": name, "datatype": "FP32", "shape": [-1, classes]} for name in OUTPUTS],
        "parameters": {"sha256": manifest["sha256"], "parity": entry.artifact.verdict},
    }


def _configuration(entry: Entry) -> dict[str, Any]:
    about = _metadata(entry)

    def tensor(told: dict[str, Any]) -> dict[str, Any]:
        kind = "STRING" if told["datatype"] == "BYTES" else told["datatype"]
        return {"name": told["name"], "data_type": f"TYPE_{kind}", "dims": told["shape"][1:] or [1]}

    return {
        "name": entry.key,
        "platform": about["platform"],
        "backend": "lfdeploy",
        "max_batch_size": tensors.MOST_ROWS,
        "input": [tensor(told) | {"optional": True} for told in about["inputs"]],
        "output": [tensor(told) for told in about["outputs"]],
    }
