"""All routes of the server in one ASGI application: `/v1`, `/v2`, health, metrics; below them the page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from serve import api_v1, api_v2, openapi
from serve.access import Access, Rules
from serve.answer import MAX_MEGABYTES
from serve.csp import Scripts
from serve.problems import Problem, problem_of, response
from serve.proxy import Below
from serve.request_log import RequestLog
from serve.state import State
from serve.workers.channel import PRIVATE

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from serve.log_lines import Lines

OURS = ("/v1", "/v2", "/health", "/metrics", "/openapi.json", "/docs", "/page.js")
PARTS = ("page_kept.js", "page.js", "page_many.js")
SCRIPT = f"const LIMIT = {MAX_MEGABYTES};\n" + "".join(
    Path(__file__).with_name(name).read_text(encoding="utf-8") for name in PARTS
)
HTTP = {404: "not_found", 405: "method_not_allowed"}


def application(
    state: State, page: ASGIApp, rules: Rules, root_path: str = "", log: Lines | None = None
) -> ASGIApp:
    """The server: our own routes first, the page for all other paths. ``log`` takes a line for each
    request.
    """
    api = Counted(_api(state), state)

    async def chosen(scope: Scope, receive: Receive, send: Send) -> None:
        ours = scope["type"] == "http" and below(scope["path"], OURS)
        await (api if ours else page)(scope, receive, send)

    whole = Below(Access(Scripts(chosen), rules), root_path)
    return RequestLog(whole, log) if log else whole


def below(path: str, places: tuple[str, ...]) -> bool:
    """Whether the path is one of the places, or in one."""
    return any(path == place or path.startswith(f"{place}/") for place in places)


def _api(state: State) -> Starlette:
    async def live(request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(request: Request) -> Response:
        return JSONResponse({"ready": state.ready}, 200 if state.ready else 503)

    async def metrics(request: Request) -> Response:
        own = state.metrics.text()
        text = await state.team.metrics(own) if state.team else own
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def script(request: Request) -> Response:
        return Response(SCRIPT, media_type="text/javascript; charset=utf-8")

    others = [Route("/health/live", live), Route("/health/ready", ready), Route("/metrics", metrics)]
    others += [*openapi.routes(), Route("/page.js", script)]
    handlers: dict[Any, Any] = {Problem: _told, HTTPException: _told, Exception: _told}
    app = Starlette(
        routes=[*api_v1.routes(state), *api_v2.routes(state), *others],
        exception_handlers=handlers,
    )
    app.router.redirect_slashes = False
    return app


def _told(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        known = HTTP.get(error.status_code, "bad_request")
        text = (
            f"{request.method} {request.url.path[:80]} is no route of this server. They are listed at /docs."
        )
        error = Problem(known, text, error.status_code, error.headers)
    return response(problem_of(error), request.state.number, request.url.path.startswith("/v2"))


class Counted:
    """ASGI middleware: counts answers by route and status; refuses new work while the server stops; what no
    handler expected is a 500 in one sentence.
    """

    def __init__(self, app: ASGIApp, state: State) -> None:
        self.app, self.state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if not any(name.lower() == b"x-request-id" for name, _ in message["headers"]):
                    message["headers"] = [*message["headers"], (b"x-request-id", number.encode())]
            await send(message)

        number, plain = scope["state"]["number"], scope["path"].startswith("/v2")
        share = scope["state"]["share"] = self.state.held.share()
        self.state.active.add(number)
        try:
            if scope["method"] == "POST" and self.state.closing.is_set():
                raise Problem("stopping", "The server stops. Ask another one.", headers={"Retry-After": "10"})
            await self.app(scope, receive, watched)
        except Exception as error:
            if status:
                raise  # an answer that had begun just ends
            await response(problem_of(error), number, plain)(scope, receive, watched)
        finally:
            share.release()
            self.state.active.discard(number)
            if not scope["state"].get(PRIVATE):  # not the first process that asks a worker
                name = getattr(scope.get("endpoint"), "__name__", "none")
                place = scope["path"].split("/")[1]
                self.state.metrics.requests.labels(f"{place}:{name}", status).inc()
