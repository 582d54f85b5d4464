"""What a person sees: messages and progress on standard error, results on standard output."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.table import Table


def say(message: str) -> None:
    """One line on standard error; above a progress bar if one is shown."""
    if _active is not None and _active.bar is not None:
        _active.bar.console.print(message, markup=False, highlight=False)
    else:
        print(message, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Like 0:07, 12:30 or 3:05:00; a question mark for what is not known."""
    if seconds != seconds:
        return "?"
    whole = max(0, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


class Meter:
    """Progress of a known number of units: a bar with rate and time left on a terminal, nothing elsewhere."""

    def __init__(self, title: str, total: int, unit: str) -> None:
        self.title, self.total, self.unit, self.done = title, total, unit, 0
        self.start = time.perf_counter()
        self.first = 0
        self.bar: Progress | None = None
        self.task: Any = None

    def __enter__(self) -> Meter:
        global _active
        if sys.stderr.isatty() and _active is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            shown = TextColumn("{task.fields[info]}")
            self.bar = Progress(TextColumn("{task.description}"), BarColumn(), shown, console=Console(stderr=True), transient=True)
            self.task = self.bar.add_task(self.title, total=self.total, info="")
            self.bar.start()
            _active = self
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        global _active
        if self.bar is not None:
            self.bar.stop()
            _active = None

    def at(self, done: int, title: str | None = None) -> None:
        """Move to ``done`` units in all; the rate counts from the first call."""
        if self.done == 0:
            self.first = done if done > 1 else 0
        self.done = done
        if title is not None:
            self.title = title
        if self.bar is not None:
            self.bar.update(self.task, completed=done, description=self.title, info=self.info())

    def left(self) -> float:
        """Seconds left at the rate so far."""
        spent, made = time.perf_counter() - self.start, self.done - self.first
        return spent / made * (self.total - self.done) if made > 0 else float("nan")

    def info(self) -> str:
        """Rate and time left."""
        spent, made = time.perf_counter() - self.start, self.done - self.first
        if made <= 0 or spent <= 0:
            return ""
        return f"{made / spent:,.0f} {self.unit}/s  {duration(self.left())} left"


_active: Meter | None = None


@contextmanager
def decoding() -> Iterator[Any]:
    """A meter for `lfdeploy.data.load`, as its ``report``; shown only when it takes a while."""
    meter: list[Meter] = []

    def report(done: int, total: int) -> None:
        if not meter:
            meter.append(Meter("Reading pictures", total, "pictures").__enter__())
        meter[0].at(done)

    try:
        yield report
    finally:
        for m in meter:
            m.__exit__(None, None, None)


def width() -> int:
    """Columns of standard output; 140 where it is no terminal."""
    from rich.console import Console

    return Console().width if sys.stdout.isatty() else 140


def table(title: str, columns: list[str], rows: list[list[str]], left: int = 1, tight: bool = False) -> None:
    """A table on standard output; the first ``left`` columns are words, the others numbers. ``tight``: less space between."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    made: Table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=tight)
    for index, column in enumerate(columns):
        made.add_column(column, justify="left" if index < left else "right", overflow="fold")
    for row in rows:
        made.add_row(*row)
    out = Console(width=width(), highlight=False, markup=False)
    if title:
        out.print(title, style="bold", soft_wrap=True)
    out.print(made)
