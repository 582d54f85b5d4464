"""What a person sees: messages and progress on standard error, results on standard output."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.table import Table


QUIET = 10.0  # seconds without a line, where there is no terminal, after which a meter speaks


def be_silent(silent: bool = True) -> None:
    """Say and print nothing from now on: this process is one of several that do the same, and another one
    speaks. Or speak again.
    """
    global _silent
    _silent = silent


def is_silent() -> bool:
    """Whether this process leaves the talking to another one."""
    return _silent


def say(message: str) -> None:
    """One line on standard error, above a progress bar if there is one; dropped
    where that is closed or full.
    """
    if _silent:
        return
    if _active is not None and _active.bar is not None:
        _active.bar.console.print(message, markup=False, highlight=False)
        return
    _pulse.spoken = time.monotonic()
    try:
        print(message, file=sys.stderr, flush=True)
    except (OSError, ValueError):  # what was to be said is worth less than what is being done
        pass


def document(value: object) -> None:
    """One JSON document on standard output, in letters where its encoding has them all."""
    import click

    encoding = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "")
    click.echo(json.dumps(value, indent=2, ensure_ascii=encoding != "utf8"))


def duration(seconds: float) -> str:
    """Like 0:07, 12:30 or 3:05:00; a question mark for what is not known."""
    if seconds != seconds:
        return "?"
    whole = max(0, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


class Meter:
    """Progress of a number of units, 0 where it is not known: on a terminal a bar with rate and time left.

    Elsewhere the innermost meter says a line after `QUIET` seconds of silence. ``after``: what comes when all
    units are done.
    """

    def __init__(self, title: str, total: int = 0, unit: str = "", after: str = "finishing") -> None:
        self.title, self.total, self.unit, self.done, self.after = title, total, unit, 0, after
        self.entered = self.start = time.perf_counter()
        self.first: int | None = None
        self.bar: Progress | None = None
        self.task: Any = None

    def __enter__(self) -> Meter:
        global _active
        if _silent:
            return self
        if not _terminal():
            _pulse.add(self)
        elif _active is None and self.total:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            shown = TextColumn("{task.fields[info]}")
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                shown,
                console=Console(stderr=True),
                transient=True,
            )
            self.task = self.bar.add_task(self.title, total=self.total, info="")
            self.bar.start()
            _active = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _active
        _pulse.remove(self)
        if self.bar is not None:
            self.bar.stop()
            _active = None

    def at(self, done: int, title: str | None = None) -> None:
        """Move to ``done`` units in all; the rate counts from the first call, which may come late."""
        if self.first is None:
            self.first, self.start = done, time.perf_counter()
        self.done = done
        if title is not None:
            self.title = title
        if self.bar is not None:
            self.bar.update(self.task, completed=done, description=self.title, info=self.info())

    def left(self) -> float:
        """Seconds left at the rate so far."""
        spent, made = time.perf_counter() - self.start, self.done - (self.first or 0)
        return spent / made * (self.total - self.done) if made > 0 else float("nan")

    def info(self) -> str:
        """Rate and time left; when all units are done, what follows them is of unknown length."""
        spent, made = time.perf_counter() - self.start, self.done - (self.first or 0)
        if made <= 0 or spent <= 0:
            return ""
        if self.done >= self.total:
            return self.after
        rate = made / spent
        return f"{rate:,.{0 if rate >= 10 else 1}f} {self.unit}/s  {duration(self.left())} left"

    def line(self) -> str:
        """Where it stands, as one line."""
        spent = duration(time.perf_counter() - self.entered)
        if not self.total:
            return f"{self.title}: at work for {spent}" if self.title else ""
        share = f"{self.done:,} of {self.total:,} {self.unit}"
        return f"{self.title}: {share} after {spent}  {self.info()}".rstrip()


class _Pulse:
    """The thread that lets the innermost meter speak; there is one while there are meters and no terminal."""

    def __init__(self) -> None:
        self.meters: list[Meter] = []
        self.changed = threading.Condition()
        self.spoken = 0.0

    def add(self, meter: Meter) -> None:
        with self.changed:
            self.meters.append(meter)
            if len(self.meters) == 1:
                self.spoken = time.monotonic()
                threading.Thread(target=self._run, args=(meter,), daemon=True).start()

    def remove(self, meter: Meter) -> None:
        with self.changed:
            if meter in self.meters:
                self.meters.remove(meter)
                self.changed.notify_all()

    def _run(self, outermost: Meter) -> None:
        while True:
            with self.changed:
                if outermost not in self.meters:
                    return
                rest = self.spoken + QUIET - time.monotonic()
                if rest > 0:
                    self.changed.wait(rest)
                    continue
                line = self.meters[-1].line()
            if line:
                say(line)
            else:
                self.spoken = time.monotonic()


def another_speaks() -> Meter:
    """While it is entered no meter says anything: another process does, on the same terminal or file."""
    return Meter("")


_pulse = _Pulse()
_active: Meter | None = None
_silent = False


@contextmanager
def decoding() -> Iterator[Any]:
    """A meter for `lfdeploy.data.load`, as its ``report``; on a terminal shown only when it takes a while."""
    meter: list[Meter] = []

    def report(done: int, total: int) -> None:
        if not meter:
            meter.append(Meter("Reading pictures", total, "pictures").__enter__())
        meter[0].at(done)

    try:
        with Meter("Reading pictures"):
            yield report
    finally:
        for m in meter:
            m.__exit__(None, None, None)


def _terminal() -> bool:
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except ValueError:  # closed
        return False


def width(whole: bool = False) -> int:
    """Columns of standard output; where it is no terminal 140, or, with ``whole``, as many as are needed."""
    from rich.console import Console

    if sys.stdout is not None and sys.stdout.isatty():
        return Console().width
    return 100_000 if whole else 140


def table(
    title: str, columns: list[str], rows: list[list[str]], left: int = 1, tight: bool = False,
    whole: bool = False,
) -> None:  # fmt: skip
    """A table on standard output; the first ``left`` columns are words, the others numbers.

    ``tight``: less space between. ``whole``: a program that reads it gets each row as one line.
    """
    if _silent:
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    made: Table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=tight)
    for index, column in enumerate(columns):
        made.add_column(column, justify="left" if index < left else "right", overflow="fold")
    for row in rows:
        made.add_row(*row)
    out = Console(width=width(whole), highlight=False, markup=False)
    try:
        if title:
            out.print(title, style="bold", soft_wrap=True)
        out.print(made)
    except SystemExit:  # rich's answer to a pipe that nobody reads any more
        raise BrokenPipeError from None
