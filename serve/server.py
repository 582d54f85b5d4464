"""The process: a socket, FastAPI with the page mounted, and an orderly end."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lfdeploy.errors import LfdeployError, UsageError
from serve.access import loopback, rules_of
from serve.answer import MAX_MEGABYTES
from serve.app import HERE, build_page
from serve.application import application
from serve.entries import Entry, find, open_all, preferred
from serve.examples import examples_of, write_examples
from serve.guard import Guard
from serve.heap import few_arenas
from serve.lazy_page import Page
from serve.log_lines import lines_to
from serve.offline import go_offline
from serve.proxy import parts_of
from serve.rest import Rest
from serve.said import say
from serve.signals import Hangup, handled, stop
from serve.state import State, state_of
from serve.uploads import Uploads, uploads
from serve.workers.relay import Told
from serve.workers.team import team_of

if TYPE_CHECKING:
    import gradio as gr
    from fastapi import FastAPI
    from starlette.types import ASGIApp

    from lfdeploy.artifact import Artifact


def serve(
    artifacts: Sequence[str | Path] = (),
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    device: str = "auto",
    runs: str | Path = "runs",
    root_path: str = "",
    token_file: str | Path = "",
    title: str = "",
    log: bool = False,
    workers: int = 1,
) -> None:
    """Serve the page and the API until Ctrl-C or SIGTERM; answers under way are finished first.

    ``root_path`` is where a reverse proxy shows it: a path like ``/demo``, or a whole address. Where
    ``token_file`` names a file, its word is asked for. ``title`` stands on the page. ``log`` writes a
    line of JSON for each request to standard output. ``workers`` is how many processes answer. Raises
    `LfdeployError` when there is nothing to serve, nothing of it runs here, or the port is taken.
    """
    few_arenas()
    parts_of(root_path)
    _check(port, workers)
    rules = rules_of(host, root_path, token_file)
    hangup = Hangup()
    with handled(signal.SIGTERM, stop), handled(signal.SIGHUP, hangup):
        found = find(artifacts, runs)
        threads = 0 if workers == 1 else max(1, len(os.sched_getaffinity(0)) // workers)

        def settings() -> dict[str, Any]:
            served = [entry.artifact for entry in hangup.state.entries] if hangup.state else found
            return {
                "artifacts": [(str(each.path.absolute()), each.manifest["sha256"]) for each in served],
                "device": device, "threads": threads, "root_path": root_path, "log": log,
                "hosts": sorted(rules.hosts), "token": rules.token,
            }  # fmt: skip

        with (
            listening(host, port) as sock,
            uploads() as sent,
            lines_to(sys.stdout, log) as lines,
            _farewell(hangup),
            team_of(workers - 1, settings, rules.token) as team,
        ):
            entries = _opened(found, device, threads)
            state = state_of(entries, team)
            page = Page(lambda: _built(state, sent, runs, title, bool(rules.token)))
            app = Told(application(state, page, rules, root_path, lines))
            hangup.serves(state)
            _run(app, state, page, sock, hello(entries, host, sock.getsockname()[1], bool(rules.token)))


def _check(port: object, workers: object) -> None:
    """Raise `UsageError` for what the command line does not let through either."""
    for name, value, least, most in (("port", port, 0, 65535), ("workers", workers, 1, 64)):
        if type(value) is not int or not least <= value <= most:
            raise UsageError(f"{name} is {value!r}; it must be a whole number from {least} to {most}.")


def _opened(found: Sequence[Artifact], device: str, threads: int) -> tuple[Entry, ...]:
    entries = open_all(found, device, threads)
    if preferred(entries).predictor is None:
        raise LfdeployError(f"None of the artifacts can run here. {entries[0].key}: {entries[0].reason}")
    return entries


@contextmanager
def _farewell(hangup: Hangup) -> Iterator[None]:
    """A word when a server that served has ended, with all its processes."""
    try:
        yield
    finally:
        if hangup.state is not None:
            say("lfdeploy serve: stopped.")


def _built(
    state: State, sent: Uploads, runs: str | Path, title: str, token: bool
) -> tuple[FastAPI, gr.Blocks]:
    """The page, and the application that has it."""
    found = examples_of(preferred(state.entries).artifact, runs)
    go_offline()
    import gradio  # noqa: F401  (takes seconds, in which a Ctrl-C does not wait)

    with sent.held() as folder:
        blocks = build_page(state.engines, write_examples(found, folder), title, token)
        return mount(blocks, state.closing), blocks


def hello(entries: Sequence[Entry], host: str, port: int, token: bool = False) -> str:
    """What is printed once the page answers: its address, the artifacts and what is known of them; and who
    may ask, where that is not this machine alone or those with the ``token``.
    """
    shown = f"[{host}]" if ":" in host else host
    lines = [f"lfdeploy serve: http://{shown}:{port}  (Ctrl-C stops it)"]
    first = preferred(entries).key if len(entries) > 1 else ""
    for entry in entries:
        chosen = "; answers unless another one is asked for" if entry.key == first else ""
        lacks = f", cannot run here: {entry.reason}" if entry.reason else ""
        lines.append(f"  {entry.key}: {entry.verdict}{lacks}{chosen}")
    if not loopback(host) and not token:
        lines.append("  Whoever reaches this address may use it. To ask for a word: --token-file FILE")
    return "\n".join(lines)


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A bound socket; a port that is taken, or an address that is not this
    machine's, is an `LfdeployError`.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Only of a socket that says TCP does asyncio switch off Nagle's delay, which costs 40 ms and more an
    # answer.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
            sock.listen(128)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise LfdeployError(
                    f"Port {port} is taken. Take another with --port {min(port + 1, 65535)}, or any "
                    "free one with --port 0."
                ) from None
            raise LfdeployError(
                f"Cannot listen on {host} port {port}: {error.strerror or error}. Choose others with "
                "--host and --port."
            ) from None
        yield sock


def mount(page: gr.Blocks, closing: threading.Event | None = None) -> FastAPI:
    """The page in a FastAPI application: its style, no footer, no monitoring, no history, uploads limited.

    While ``closing`` is set, new work is refused.
    """
    go_offline()
    import gradio as gr
    from fastapi import FastAPI

    accent = gr.themes.colors.blue
    theme = gr.themes.Default(
        primary_hue=accent,
        neutral_hue=gr.themes.colors.zinc,
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    app: FastAPI = gr.mount_gradio_app(
        FastAPI(title="lfdeploy serve", docs_url=None, redoc_url=None, openapi_url=None),
        page,
        path="/",
        theme=theme,
        css=(HERE / "page.css").read_text(encoding="utf-8"),
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        max_file_size=MAX_MEGABYTES * 1_000_000,
        show_error=False,
        ssr_mode=False,
        head='<script type="module" src="page.js"></script>',
        pwa=False,
        mcp_server=False,
    )
    page.custom_mount_path = None  # Gradio would put it in the place of the path that `Below` tells
    app.add_middleware(Guard, page=page, closing=closing or threading.Event(), rest=Rest(page))
    return app


def _run(app: ASGIApp, state: State, page: Page, sock: socket.socket, greeting: str) -> None:
    from serve.http_server import First

    with suppress(KeyboardInterrupt):  # uvicorn hands it on after an orderly end
        First(app, state, page, lambda: say(greeting)).run(sockets=[sock])
