"""Messages and progress where there is no terminal: lines when nothing else is
said, and streams that fail.
"""

from __future__ import annotations

import io
import sys
import threading

import pytest

from lfdeploy import console
from lfdeploy.console import Meter, another_speaks, decoding, say


class Lines(io.StringIO):
    """A stream that knows when something was written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = threading.Event()

    def write(self, text: str) -> int:
        count = super().write(text)
        if "\n" in text:
            self.written.set()
        return count


def listen(monkeypatch: pytest.MonkeyPatch) -> Lines:
    """Hear standard error, on which meters speak at once; pytest's own takes its place in every phase of
    a test.
    """
    stream = Lines()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(console, "QUIET", 0.01)
    return stream


def spoken(lines: Lines) -> str:
    """The next line that is said by itself."""
    lines.written.clear()
    assert lines.written.wait(60)
    return lines.getvalue().splitlines()[-1]


def test_a_meter_speaks_when_nothing_else_does(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = listen(monkeypatch)
    with Meter("Reading", 1000, "pictures") as meter:
        meter.at(100)
        meter.at(350)
        assert spoken(lines).startswith("Reading: 350 of 1,000 pictures after 0:0")
        assert "pictures/s" in spoken(lines)
        assert spoken(lines).endswith("left")


def test_the_innermost_meter_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = listen(monkeypatch)
    with Meter("outer"):
        assert spoken(lines).startswith("outer: at work for 0:0")
        with Meter("inner", 10, "rows"):
            assert spoken(lines).startswith("inner: 0 of 10 rows after")
        spoken(lines)  # one that had begun before
        assert spoken(lines).startswith("outer")


def test_one_process_speaks_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """While another one does, the lines of this would only come between."""
    lines = listen(monkeypatch)
    with Meter("outer"):
        with another_speaks():
            said = []
            for _ in range(3):  # the first turn may have begun before
                turn = console._pulse.spoken
                while console._pulse.spoken == turn:
                    pass
                said.append(lines.getvalue())
            assert said[0] == said[2]
        assert spoken(lines).startswith("outer")


def test_decoding_speaks_before_it_knows_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = listen(monkeypatch)
    with decoding() as report:
        assert spoken(lines).startswith("Reading pictures: at work")
        report(0, 500)
        spoken(lines)
        assert spoken(lines).startswith("Reading pictures: 0 of 500 pictures")


def test_what_is_said_puts_the_meter_off(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = listen(monkeypatch)
    monkeypatch.setattr(console, "QUIET", 3600.0)
    with Meter("Reading", 1000, "pictures") as meter:
        meter.at(1)
        say("a line")
    assert lines.getvalue() == "a line\n"


def test_the_rate_counts_what_was_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed training begins at a high number, after a while of loading."""
    now = iter([0.0, 100.0, 110.0, 110.0, 110.0, 120.0])
    monkeypatch.setattr(console.time, "perf_counter", lambda: next(now))
    meter = Meter("epoch", 2000, "img")
    meter.at(1000)
    meter.at(1500)
    assert meter.left() == pytest.approx(10.0)
    assert meter.info() == "50 img/s  0:10 left"
    meter.at(2000)
    assert meter.info() == "finishing"


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("stream", [None, Broken(), io.StringIO()], ids=["absent", "full", "closed"])
def test_a_stream_that_fails_costs_only_the_line(
    stream: io.StringIO | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if type(stream) is io.StringIO:
        stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    say("nobody hears")
    with Meter("Reading", 10, "pictures") as meter:
        meter.at(5)
