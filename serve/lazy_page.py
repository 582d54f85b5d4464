"""The page in its own time: Gradio takes seconds to import, and polls once it runs; programs wait for
neither.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from starlette.responses import PlainTextResponse

from serve.said import say
from serve.uploads import Gone

if TYPE_CHECKING:
    import gradio as gr
    from fastapi import FastAPI
    from starlette.types import Receive, Scope, Send


NAME = "lfdeploy-page"


def is_building() -> bool:
    """Whether a page of this process is still being built: the interpreter's end would tear the thread out of
    the libraries it imports, and some of these abort the process then.
    """
    return any(thread.name == NAME for thread in threading.enumerate())


class Page:
    """An ASGI application for another one, which a thread builds and the first visitor starts.

    ``build()`` returns it and the Gradio page in it.
    """

    def __init__(self, build: Callable[[], tuple[FastAPI, gr.Blocks]]) -> None:
        self._build = build
        self._built: Future[tuple[FastAPI, gr.Blocks]] = Future()
        self._begun: asyncio.Task[None] | None = None
        self._up, self._end = asyncio.Event(), asyncio.Event()
        self._runs = False

    def prepare(self) -> None:
        """Begin to build, in a thread."""
        threading.Thread(target=self._make, name=NAME, daemon=True).start()

    def _make(self) -> None:
        try:
            self._built.set_result(self._build())
        except Gone as error:
            self._built.set_exception(error)
        except BaseException as error:
            say(f"lfdeploy serve: there is no page, programs are answered: {type(error).__name__}: {error}")
            self._built.set_exception(error)

    @property
    def blocks(self) -> gr.Blocks | None:
        """The Gradio page, where somebody has visited it."""
        return self._built.result()[1] if self._runs else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on, once there is somebody to take it."""
        if self._runs:
            await self._built.result()[0](scope, receive, send)
            return
        try:
            app, _ = await asyncio.shield(asyncio.wrap_future(self._built))
            if self._begun is None:
                self._begun = asyncio.ensure_future(self._live(app))
            await self._up.wait()
            if not self._runs:
                await asyncio.shield(self._begun)  # says why
        except Exception:
            text = "There is no page here; the terminal says why. Programs are answered at /v1/classify."
            await PlainTextResponse(text, 503)(scope, receive, send)
            return
        await app(scope, receive, send)

    async def _live(self, app: FastAPI) -> None:
        try:
            async with app.router.lifespan_context(app):
                self._runs = True
                self._up.set()
                await self._end.wait()
        finally:
            self._up.set()

    async def stop(self) -> None:
        """Let open pages go: each holds a connection for as long as Gradio's stop event is not set."""
        if not self._runs:
            return
        for route in self._built.result()[0].routes:
            stop: Any = getattr(getattr(route, "app", None), "stop_event", None)
            if stop is not None:
                stop.set()

    async def stopped(self) -> None:
        """Wait for its end, after all connections are closed."""
        self._end.set()
        if self._begun is not None:
            with suppress(Exception):
                await self._begun
