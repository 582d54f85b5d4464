"""The API's own description: one OpenAPI document, and a page that shows it without a line of script."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from lfdeploy import __version__
from serve.bodies import MOST_BATCH, MOST_PICTURE, MOST_PICTURES

QUERY = {
    "artifact": ("string", "which artifact; by default the one that the page opens with"),
    "top": ("integer", "how many classes (default 5)"),
    "explain": ("boolean", "also the heat map, where the artifact has one"),
}
PICTURE, FORM = {"type": "string", "format": "binary"}, "multipart/form-data"
NUMBER, TEXT = {"type": "number"}, {"type": "string"}
SCHEMAS: dict[str, Any] = {
    "Answer": {
        "type": "object",
        "properties": {
            "artifact": TEXT,
            "sha256": {**TEXT, "description": "of the file that answered"},
            "parity": {"enum": ["pass", "unverified", "fail"]},
            "label": TEXT,
            "probability": NUMBER,
            "top": {
                "type": "array",
                "items": {"type": "object", "properties": {"label": TEXT, "probability": NUMBER}},
            },
            "abstain": {"type": ["boolean", "null"], "description": "not sure; null without a threshold"},
            "unfamiliar": {
                "type": ["boolean", "null"],
                "description": "unlike the training pictures; null where nothing is known of that",
            },
            "notes": {"type": "array", "items": TEXT},
            "milliseconds": {
                "type": "object",
                "properties": {"decode": NUMBER, "queue": NUMBER, "model": NUMBER},
            },
            "batch": {"type": "integer", "description": "pictures that shared the model's run"},
            "request_id": TEXT,
        },
    },
    "Error": {
        "type": "object",
        "properties": {
            "error": {
                "type": "object",
                "properties": {"code": TEXT, "message": TEXT, "request_id": TEXT},
            }
        },
    },
}
JSON, TENSORS = "application/json", ("application/json", "application/octet-stream")


@dataclass(frozen=True)
class Operation:
    """A route: what it does, the kinds of its body, and the schema or the kind of its answer."""

    method: str
    path: str
    text: str
    bodies: tuple[str, ...] = ()
    answer: str = JSON


OPERATIONS = (
    Operation(
        "post",
        "/v1/classify",
        f"Classify a picture of at most {MOST_PICTURE // 1_000_000} MB: its bytes as the body, or one file "
        "of a form.",
        ("image/*", FORM),
        "Answer",
    ),
    Operation(
        "post",
        "/v1/batch",
        f"Classify up to {MOST_PICTURES} files of a form, {MOST_BATCH // 1_000_000} MB in all. A line of "
        "JSON a picture as soon as it is answered; one that fails says why and stops no other.",
        (FORM,),
        "application/x-ndjson",
    ),
    Operation("get", "/v1/artifacts", "What is served: hashes, verdicts, classes, devices."),
    Operation("get", "/health/live", "200 as long as the process answers; needs no token."),
    Operation("get", "/health/ready", "200 while pictures are taken, else 503."),
    Operation("get", "/metrics", "Counters for Prometheus.", (), "text/plain"),
    Operation("get", "/v2", "The Open Inference Protocol: name, version and extensions."),
    Operation("get", "/v2/health/live", "As /health/live.", (), ""),
    Operation("get", "/v2/health/ready", "As /health/ready.", (), ""),
    Operation("get", "/v2/models/{model}", "Inputs and outputs of an artifact."),
    Operation("get", "/v2/models/{model}/ready", "200 where it runs.", (), ""),
    Operation("get", "/v2/models/{model}/config", "The same as Triton writes it."),
    Operation(
        "post",
        "/v2/models/{model}/infer",
        "Tensors in, tensors out: pixels (UINT8) or 'encoded' pictures (BYTES); JSON or the binary "
        "extension; classification.",
        TENSORS,
    ),
    Operation("post", "/v2/repository/index", "Every artifact and whether it runs."),
    Operation(
        "post",
        "/v2/repository/models/{model}/load",
        "Read an artifact's directory anew and serve it, if it is whole and has the same classes. Takes a "
        "token.",
    ),
)

#: Of the page of all routes, which runs nothing.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'self'"


def routes() -> list[Route]:
    """The document and the page."""

    async def openapi(request: Request) -> Response:
        return JSONResponse(document())

    async def docs(request: Request) -> Response:
        return HTMLResponse(page(), headers={"Content-Security-Policy": POLICY})

    return [Route("/openapi.json", openapi), Route("/docs", docs)]


def document() -> dict[str, Any]:
    """OpenAPI 3.1."""
    paths: dict[str, Any] = {}
    for each in OPERATIONS:
        paths.setdefault(each.path, {})[each.method] = _operation(each)
    return {
        "openapi": "3.1.0",
        "info": {"title": "lfdeploy serve", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _operation(each: Operation) -> dict[str, Any]:
    path, answer = each.path, each.answer
    parameters: list[dict[str, Any]] = []
    if path in ("/v1/classify", "/v1/batch"):
        parameters = [
            {"name": name, "in": "query", "description": about, "schema": {"type": kind}}
            for name, (kind, about) in QUERY.items()
        ]
    if "{model}" in path:
        parameters.append({"name": "model", "in": "path", "required": True, "schema": TEXT})
    found: dict[str, Any] = {"summary": each.text, "parameters": parameters}
    if each.bodies:
        form = {"type": "object", "properties": {"file": PICTURE}}
        schemas = {FORM: form, "image/*": PICTURE}
        found["requestBody"] = {
            "required": True,
            "content": {kind: {"schema": schemas.get(kind, {})} for kind in each.bodies},
        }
    content: dict[str, Any] = {answer: {}} if answer else {}
    if answer in SCHEMAS:
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{answer}"}}}
    problem = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    found["responses"] = {
        "200": {"description": "The answer", **({"content": content} if content else {})},
        "default": {"description": "A problem: a status, a stable code, a sentence", "content": problem},
    }
    return found


STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem }
dt { margin-top: 1rem; font-weight: 600 } dd { margin: 0 } pre { overflow-x: auto; padding: .7rem 1rem;
background: color-mix(in srgb, currentColor 8%, transparent); border-radius: .4rem }
"""
EXAMPLE = """curl --data-binary @photo.jpg 'ADDRESS/v1/classify?top=3'
curl -F file=@one.jpg -F file=@two.jpg ADDRESS/v1/batch"""


def page() -> str:
    """The routes in words."""
    rows = "".join(
        f"<dt><code>{each.method.upper()} {escape(each.path)}</code></dt><dd>{escape(each.text)}</dd>"
        for each in OPERATIONS
    )
    query = "".join(
        f"<dt><code>{name}</code></dt><dd>{escape(about)}</dd>" for name, (_, about) in QUERY.items()
    )
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>lfdeploy serve: API</title>"
        f"<meta name='viewport' content='width=device-width'><style>{STYLE}</style></head><body><main>"
        f"<h1>lfdeploy serve: the API</h1><p>ADDRESS is where this page is. "
        f"The whole description is <a href='openapi.json'>an OpenAPI document</a>.</p>"
        f"<pre>{escape(EXAMPLE)}</pre><h2>Routes</h2><dl>{rows}</dl>"
        f"<h2>Parameters of /v1</h2><dl>{query}</dl></main></body></html>"
    )
