"""The commands that end with a page: `serve` and `ship`."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import Any, NoReturn

import click

from lfdeploy import early
from lfdeploy.completion import ARTIFACT
from lfdeploy.shared_flags import DEVICE, RUNS, SERVED
from lfdeploy.shell import Command


@click.command(cls=Command, short_help="Open a web page that classifies")
@click.argument("artifacts", shell_complete=ARTIFACT, nargs=-1, metavar="[ARTIFACT...]")
@SERVED
@DEVICE
@RUNS
def serve(artifacts: tuple[str, ...], **where: Any) -> None:
    """Open a web page that classifies with ARTIFACTs, or those of a RUN (default: the newest), and an API for
    programs: its page is at /docs.

    SIGHUP reads the artifacts anew. Nothing leaves the machine.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, _nothing_yet)
    from serve import serve as run_page

    try:
        run_page(artifacts, **where)
    except SystemExit as ended:  # SIGTERM
        if ended.code:
            raise
    _end()


def _end() -> None:
    """End in order; where the page is still being built, without waiting for that."""
    from serve.lazy_page import is_building

    if is_building():
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(0)


def _nothing_yet(number: int, frame: object) -> None:
    """SIGHUP before anything was read: all of it is read afterwards."""


@click.command(cls=Command, short_help="From a folder of pictures to a page: train, export, prove, serve")
@click.argument("folder", metavar="FOLDER")
@click.option(
    "--time", "limit", default="20m", show_default=True, metavar="T", help="of all but the page, as 8m"
)
@click.option(
    "--for",
    "aim",
    default="cpu",
    type=click.Choice(["cpu", "gpu", "size"]),
    show_default=True,
    help="what the artifact must be good at: speed there, or smallness",
)
@click.option("--no-serve", is_flag=True, help="stop before the page")
@SERVED
@RUNS
def ship(folder: str, limit: str, aim: str, no_serve: bool, runs: str, **where: Any) -> None:
    """Train on FOLDER, export what may serve the aim, prove it, and open a page on the best.

    Each step prints the plain command that it stands for. The same command again goes on where it was.
    """
    from lfdeploy.console import Meter, say
    from lfdeploy.run import typed
    from lfdeploy.shipping import ship as run_all

    with Meter("lfdeploy ship"):
        artifact = run_all(folder, limit, aim, runs, early.BEGAN)
    command = f"serve {typed(artifact.path)}"
    if no_serve:
        say(f"Next: lfdeploy {command}")
        return
    say(f"\n$ lfdeploy {command}")
    become(["serve", str(artifact.path), "--runs", runs, *_flags(where)])


def _flags(where: dict[str, Any]) -> list[str]:
    """The flags of `serve` as they were given to another command."""
    words: list[str] = []
    for name, value in where.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(flag)
        elif value is not False and value != "":
            words += [flag, str(value)]
    return words


def become(words: list[str]) -> NoReturn:
    """Go on as another command of ours, in this process: what was learnt with leaves the memory."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-P", "-m", "lfdeploy", *words])
