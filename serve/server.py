"""The process: a socket, FastAPI with the page mounted, and an orderly end."""

from __future__ import annotations

import errno
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lfdeploy.console import say
from lfdeploy.errors import LfdeployError
from serve.answer import MAX_MEGABYTES
from serve.app import HERE, build_page
from serve.entries import Entry, find, open_all, preferred
from serve.examples import write_examples
from serve.guard import Guard
from serve.offline import go_offline

if TYPE_CHECKING:
    import gradio as gr
    from fastapi import FastAPI

#: Seconds that answers under way may take after Ctrl-C.
GRACE = 5


def serve(
    artifacts: Sequence[str | Path] = (),
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    device: str = "auto",
    runs: str | Path = "runs",
) -> None:
    """Serve the page until Ctrl-C or SIGTERM; answers under way are finished first.

    Raises `LfdeployError` when there is nothing to serve, nothing of it runs here, or the port is taken.
    """
    found = find(artifacts, runs)
    with _sigterm(), listening(host, port) as sock, tempfile.TemporaryDirectory(prefix="lfdeploy-serve-") as uploads:
        entries = open_all(found, device)
        if preferred(entries).predictor is None:
            raise LfdeployError(f"None of the artifacts can run here. {entries[0].key}: {entries[0].reason}")
        os.environ["GRADIO_TEMP_DIR"] = uploads
        page = build_page(entries, write_examples(preferred(entries).artifact, Path(uploads), runs))
        _run(mount(page), sock, hello(entries, host, sock.getsockname()[1]))


def hello(entries: Sequence[Entry], host: str, port: int) -> str:
    """What is printed once the page answers: its address, the artifacts and what is known of them."""
    shown = f"[{host}]" if ":" in host else host
    lines = [f"lfdeploy serve: http://{shown}:{port}  (Ctrl-C stops it)"]
    for entry in entries:
        lines.append(f"  {entry.key}: {entry.verdict}" + (f", cannot run here: {entry.reason}" if entry.reason else ""))
    return "\n".join(lines)


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A bound socket; a port that is taken, or an address that is not this machine's, is an `LfdeployError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
            sock.listen(128)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise LfdeployError(
                    f"Port {port} is taken. Take another with --port {min(port + 1, 65535)}, or any free one with --port 0."
                ) from None
            raise LfdeployError(
                f"Cannot listen on {host} port {port}: {error.strerror or error}. Choose others with --host and --port."
            ) from None
        yield sock


def mount(page: gr.Blocks) -> FastAPI:
    """The page in a FastAPI application: its style, no footer, no monitoring, no history, uploads limited."""
    go_offline()
    import gradio as gr
    from fastapi import FastAPI

    accent = gr.themes.colors.blue
    theme = gr.themes.Default(
        primary_hue=accent, neutral_hue=gr.themes.colors.zinc, font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    app: FastAPI = gr.mount_gradio_app(
        FastAPI(title="lfdeploy serve", docs_url=None, redoc_url=None, openapi_url=None), page, path="/", theme=theme,
        css=(HERE / "page.css").read_text(encoding="utf-8"), footer_links=[], run_history=False, enable_monitoring=False,
        max_file_size=MAX_MEGABYTES * 1_000_000, show_error=False, ssr_mode=False, pwa=False, mcp_server=False,
    )  # fmt: skip
    app.add_middleware(Guard)
    return app


def _run(app: FastAPI, sock: socket.socket, greeting: str) -> None:
    import uvicorn

    class Server(uvicorn.Server):
        """Says where it listens once it does, and lets open pages go when it stops."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                say(greeting)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            for route in app.routes:  # an open page holds a connection for as long as Gradio's stop event is not set
                stop: Any = getattr(getattr(route, "app", None), "stop_event", None)
                if stop is not None:
                    stop.set()
            await super().shutdown(sockets)

    config = uvicorn.Config(app, log_level="critical", access_log=False, timeout_graceful_shutdown=GRACE)
    try:
        Server(config).run(sockets=[sock])
    except KeyboardInterrupt:  # uvicorn hands it on after an orderly end
        pass
    finally:
        say("lfdeploy serve: stopped.")


@contextmanager
def _sigterm() -> Iterator[None]:
    """SIGTERM ends the process with 0, after everything is cleaned up; in a thread signals are the caller's."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise SystemExit(0)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
