"""A worker: a process that answers the connections which the first one hands to it.

python -m serve.workers.process HANDLE     its settings as JSON on standard input
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lfdeploy.artifact import Artifact, read
from lfdeploy.errors import LfdeployError
from serve.access import Rules
from serve.application import OURS, application, below
from serve.entries import open_all
from serve.heap import few_arenas
from serve.http_server import Server
from serve.log_lines import lines_to
from serve.proxy import Below
from serve.state import State, state_of
from serve.swap import swap_all
from serve.workers.channel import ASKED, END, PRIVATE, READY, RELOAD, VISITOR, Channel
from serve.workers.relay import Relay

if TYPE_CHECKING:
    import socket

    from starlette.types import ASGIApp, Receive, Scope, Send


class Worker(Server):
    """Listens to its channel alone, and ends when the first process says so or is gone."""

    def __init__(self, app: ASGIApp, state: State, channel: Channel, relay: Relay) -> None:
        super().__init__(app, state)
        self.channel, self.relay = channel, relay

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """A terminal and systemd send signals to all processes: the first one's word is what counts."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer, and say so."""
        await super().startup(sockets=[])
        asyncio.get_running_loop().add_reader(self.channel.fileno(), self._listen)
        self.channel.send(READY)

    def _listen(self) -> None:
        for word, connection in self.channel.messages():
            if word in (VISITOR, ASKED) and connection is not None:
                self.take(connection, private=word == ASKED)
            elif word == RELOAD:
                threading.Thread(target=swap_all, args=(self.state,), name="lfdeploy-swap").start()
            elif word in (END, b""):
                asyncio.get_running_loop().remove_reader(self.channel.fileno())
                self.should_exit = True

    def under_way(self) -> tuple[bool, bool]:
        """Its own answers, and those of the first process that it passes on."""
        return super().under_way()[0] or self.relay.active > 0, False


def divided(here: ASGIApp, relay: Relay, outside: Below) -> ASGIApp:
    """What a worker answers, and what it passes on: the page, the sums of all, the replacing of artifacts.
    On a private connection the first process asks for its own part.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        ours = scope["type"] == "http" and (
            scope["state"].get(PRIVATE) or _answered_here(outside.path(scope), scope)
        )
        await (here if ours else relay)(scope, receive, send)

    return app


def _answered_here(path: str, scope: Scope) -> bool:
    replaces = path.startswith("/v2/repository/models/") and scope["method"] == "POST"
    # the page asks there what it is to show next, and the first process remembers it until then
    shows = path == "/v1/classify" and any(
        name == b"accept" and b"text/html" in value for name, value in scope["headers"]
    )
    return below(path, OURS) and path != "/metrics" and not replaces and not shows


def _opened(settings: dict[str, Any]) -> State:
    """The artifacts that the first process serves. Raises `LfdeployError` where one is another by now."""
    artifacts: list[Artifact] = []
    for path, sha in settings["artifacts"]:
        artifacts.append(read(Path(path)))
        if artifacts[-1].manifest["sha256"] != sha:
            raise LfdeployError(f"{path} is another artifact by now. SIGHUP takes it.")
    return state_of(open_all(artifacts, settings["device"], settings["threads"]), quiet=True)


def main() -> None:
    """Serve until the first process says that it is enough."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    few_arenas()
    settings, channel = json.load(sys.stdin), Channel.of(int(sys.argv[1]))
    try:
        state = _opened(settings)
    except LfdeployError as error:
        sys.exit(f"lfdeploy serve: a worker cannot start: {error}")
    relay = Relay(channel.connect)
    rules = Rules(frozenset(settings["hosts"]), settings["token"])
    with lines_to(sys.stdout, settings["log"]) as lines:
        here = application(state, relay, rules, settings["root_path"], lines)
        app = divided(here, relay, Below(here, settings["root_path"]))
        Worker(app, state, channel, relay).run()


if __name__ == "__main__":
    main()
