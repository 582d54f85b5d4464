"""The API's own description: one OpenAPI document, and a page that shows it without a line of script."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from lfdeploy import __version__
from serve.bodies import MOST_BATCH, MOST_PICTURE, MOST_PICTURES
from serve.problems import STATUS
from serve.schemas import FIELDS, SCHEMAS, TEXT

QUERY: dict[str, tuple[dict[str, Any], str]] = {
    "artifact": (
        {"type": "string"},
        "which artifact, by its name in /v1/artifacts; by default the one that the page opens with",
    ),
    "top": (
        {"type": "integer", "minimum": 1, "default": 5},
        "how many classes, at most as many as there are",
    ),
    "explain": (
        {"type": "boolean", "default": False},
        "also the heat map; 409 where the artifact has none",
    ),
}
#: Codes of pictures that cannot be read, by status; `PictureError` has them from where they are found.
PICTURES = {
    "empty": 400, "unreadable": 400, "too_many_pixels": 413, "too_many_scans": 413, "not_an_image": 415,
    "heic": 415, "unsupported": 415, "truncated": 422, "damaged": 422,
}  # fmt: skip
PICTURE, FORM = {"type": "string", "format": "binary"}, "multipart/form-data"
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
        "JSON a picture as soon as it is answered, in that order: what /v1/classify says, or an error, with "
        "the file's index and name. One that fails stops no other.",
        (FORM,),
        "Line",
    ),
    Operation("get", "/v1/artifacts", "What is served: hashes, verdicts, classes, devices.", (), "Artifacts"),
    Operation("get", "/health/live", "200 as long as the process answers; needs no token."),
    Operation("get", "/health/ready", "200 while pictures are taken, else 503."),
    Operation("get", "/metrics", "Counters for Prometheus.", (), "text/plain"),
    Operation("get", "/v2", "The Open Inference Protocol: name, version and extensions."),
    Operation("get", "/v2/health/live", "200 and no body as long as the process answers.", (), ""),
    Operation("get", "/v2/health/ready", "200 and no body while pictures are taken, else 503.", (), ""),
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
        "Read an artifact's directory anew and serve it, if it is whole and has the same classes. Only for "
        "a server that was started with --token-file, and with that token.",
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
            {"name": name, "in": "query", "description": about, "schema": schema}
            for name, (schema, about) in QUERY.items()
        ]
    if "{model}" in path:
        parameters.append({"name": "model", "in": "path", "required": True, "schema": TEXT})
    found: dict[str, Any] = {"summary": each.text, "parameters": parameters}
    if each.bodies:
        files: dict[str, Any] = {"type": "array", "items": PICTURE} if path == "/v1/batch" else PICTURE
        form = {"type": "object", "properties": {"file": files}, "description": "any field's name will do"}
        schemas = {FORM: form, "image/*": PICTURE}
        found["requestBody"] = {
            "required": True,
            "content": {kind: {"schema": schemas.get(kind, {})} for kind in each.bodies},
        }
    content: dict[str, Any] = {answer: {}} if answer else {}
    if answer in SCHEMAS:
        kind = "application/x-ndjson" if answer == "Line" else JSON
        content = {kind: {"schema": {"$ref": f"#/components/schemas/{answer}"}}}
    error = "Sentence" if path.startswith("/v2") else "Error"
    problem = {JSON: {"schema": {"$ref": f"#/components/schemas/{error}"}}}
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
PYTHON = """import json
from pathlib import Path
from urllib.request import Request, urlopen

picture = Path("photo.jpg").read_bytes()
with urlopen(Request("ADDRESS/v1/classify?top=3", picture, {"Content-Type": "image/jpeg"})) as reply:
    print(json.load(reply)["label"])"""


def _terms(rows: Iterable[tuple[str, str]]) -> str:
    told = (f"<dt><code>{escape(term)}</code></dt><dd>{escape(about)}</dd>" for term, about in rows)
    return f"<dl>{''.join(told)}</dl>"


def page() -> str:
    """The routes in words."""
    routes = _terms((f"{each.method.upper()} {each.path}", each.text) for each in OPERATIONS)
    query = _terms((name, about) for name, (_, about) in QUERY.items())
    codes: dict[int, list[str]] = {}
    for code, status in (STATUS | PICTURES).items():
        codes.setdefault(status, []).append(code)
    errors = _terms((str(status), ", ".join(names)) for status, names in sorted(codes.items()))
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>lfdeploy serve: API</title>"
        f"<meta name='viewport' content='width=device-width'><style>{STYLE}</style></head><body><main>"
        f"<p><a href='./'>Back to the page</a></p><h1>lfdeploy serve: the API</h1>"
        f"<p>ADDRESS is this page's without <code>/docs</code>. The whole description is "
        f"<a href='openapi.json'>an OpenAPI document</a>.</p>"
        f"<pre>{escape(EXAMPLE)}</pre><pre>{escape(PYTHON)}</pre>"
        f"<p>A server that asks for a token (401) takes it as <code>Authorization: Bearer TOKEN</code>.</p>"
        f"<h2>Routes</h2>{routes}"
        f"<h2>Parameters of /v1</h2>{query}<h2>What an answer says</h2>{_terms(FIELDS.items())}"
        f"<h2>When there is no answer</h2><p>A status, a stable code and a sentence: "
        f'<code>{{"error": {{"code", "message", "request_id"}}}}</code>; at /v2 '
        f'<code>{{"error": sentence}}</code>, the code in the header X-Error-Code.</p>{errors}'
        f"</main></body></html>"
    )
