"""uvicorn with an orderly end: what was accepted is answered, then open pages go."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import uvicorn

from serve.http_limits import LimitedProtocol
from serve.state import State
from serve.workers.channel import PRIVATE

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from serve.lazy_page import Page

#: Seconds that answers under way may take after Ctrl-C, and that visitors have to fetch the finished ones.
GRACE = 8
FETCH = 2


class Server(uvicorn.Server):
    """Answers connections; when it stops, answers under way come first."""

    def __init__(self, app: ASGIApp, state: State) -> None:
        logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # the sender is told
        config = uvicorn.Config(
            app, log_level="critical", access_log=False, timeout_graceful_shutdown=FETCH, lifespan="off",
            server_header=False, limit_concurrency=2000,
            http=LimitedProtocol,
        )  # fmt: skip
        super().__init__(config)
        self.state = state
        self._taken: set[asyncio.Task[object]] = set()

    def take(self, connection: socket.socket, private: bool = False) -> None:
        """Answer a connection that was accepted elsewhere; a ``private`` one is another process's of ours."""
        loop = asyncio.get_running_loop()
        made = partial(LimitedProtocol, self.config, self.server_state, {PRIVATE: True} if private else {})
        task = asyncio.ensure_future(loop.connect_accepted_socket(made, connection))
        self._taken.add(task)
        task.add_done_callback(self._taken.discard)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse new work, finish what is under way, and close."""
        self.state.closing.set()
        await self._drained()
        await super().shutdown(sockets)

    def under_way(self) -> tuple[bool, bool]:
        """Whether answers are being made, and whether finished ones wait to be fetched."""
        return bool(self.state.active), False

    async def _drained(self) -> None:
        """Wait until every accepted request is answered and fetched: a client of the page's API opens its
        stream after it was accepted.
        """
        start = time.monotonic()
        finished = start
        while not self.force_exit:
            now = time.monotonic()
            waiting, unfetched = self.under_way()
            finished = now if waiting else finished
            if (not waiting and not unfetched) or now - start > GRACE or now - finished > FETCH:
                return
            await asyncio.sleep(0.02)


class First(Server):
    """The process that owns the address and the page; ``greet()`` is called once it answers."""

    def __init__(self, app: ASGIApp, state: State, page: Page, greet: Callable[[], None]) -> None:
        super().__init__(app, state)
        self.page, self.team, self.greet = page, state.team, greet

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer, with every worker there is, and say where."""
        await super().startup([] if self.team else sockets)
        if self.team is not None and sockets:
            await self.team.gathered(self.take, lambda: self.should_exit)
            self.team.accept_from(sockets[0])
        if self.started:
            self.greet()
            self.page.prepare()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what is under way, then let open pages go, then end."""
        if self.team is not None:
            self.team.end()
        await super().shutdown(sockets)
        await self.page.stopped()

    async def _drained(self) -> None:
        await super()._drained()
        await self.page.stop()

    def under_way(self) -> tuple[bool, bool]:
        """Of programs and of the page, whose queue holds what was asked and what was not fetched yet."""
        waiting, _ = super().under_way()
        if self.page.blocks is None:
            return waiting, False
        queue = self.page.blocks._queue
        called = len(queue) > 0 or any(job is not None for job in queue.active_jobs)
        return waiting or called, any(queue.pending_event_ids_session.values())
