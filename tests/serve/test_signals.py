"""Signals at any moment: SIGHUP reads artifacts anew and ends no server, unless its terminal is gone."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hostile import SERVE

from lfdeploy.run import Run
from serve.entries import Entry
from serve.signals import Hangup
from serve.state import state_of

PEER = "peer0-onnx-fp32"
#: In a session of its own, whose terminal is its standard input.
AT_TERMINAL = f"import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); {SERVE}"


def heard(handle: int, wanted: str) -> str:
    """What comes from a file until a word is in it."""
    told = ""
    while wanted not in told:
        assert select.select([handle], [], [], 120)[0], told
        piece = os.read(handle, 65536)
        assert piece, told
        told += piece.decode()
    return told


def catches(process: int, number: int) -> bool:
    """Whether a process has a handler of its own for a signal."""
    text = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    found = re.search(r"SigCgt:\s+([0-9a-f]+)", text)
    return found is not None and bool(int(found[1], 16) >> (number - 1) & 1)


def test_what_is_asked_before_there_is_a_state_is_done_later(
    entries: dict[str, Entry], capsys: pytest.CaptureFixture[str]
) -> None:
    hangup, state = Hangup(), state_of([entries[PEER]])
    hangup(signal.SIGHUP, None)
    hangup.serves(state)
    for thread in threading.enumerate():
        if thread.name == "lfdeploy-swap":
            thread.join()
    assert f"{PEER} is now" in capsys.readouterr().err


@pytest.mark.slow
def test_a_hangup_while_it_starts_ends_nothing(tiny_run: Run) -> None:
    """The signal has a handler before anything is loaded that takes its time."""
    command = [sys.executable, "-c", SERVE, "serve", tiny_run.artifacts / PEER, "--port", "0"]
    pause = threading.Event()
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stderr is not None
        try:
            while not catches(process.pid, signal.SIGHUP):
                assert process.poll() is None
                pause.wait(0.005)
            assert "onnxruntime" not in Path(f"/proc/{process.pid}/maps").read_text()
            while not select.select([process.stderr], [], [], 0.05)[0]:
                process.send_signal(signal.SIGHUP)
            heard(process.stderr.fileno(), "Ctrl-C")
            process.terminate()
            assert process.wait(60) == 0
        finally:
            process.kill()


@pytest.mark.slow
def test_a_server_ends_with_its_terminal(tiny_run: Run) -> None:
    """A signal alone, while the terminal is there, is another matter."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", AT_TERMINAL, "serve", tiny_run.artifacts / PEER, "--port", "0"]
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    ) as process:
        os.close(theirs)
        try:
            heard(ours, "Ctrl-C")
            process.send_signal(signal.SIGHUP)
            heard(ours, f"{PEER} is now")
            os.close(ours)
            assert process.wait(60) == 0
        finally:
            process.kill()


@pytest.mark.slow
def test_a_stop_does_not_wait_for_the_page(tiny_run: Run) -> None:
    """Nor does the interpreter take its libraries apart under the thread that imports them, which would abort
    it now and then.
    """
    code = f"import atexit; atexit.register(print, 'taken apart'); {SERVE}"
    command = [sys.executable, "-c", code, "serve", tiny_run.artifacts / PEER, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            heard(process.stderr.fileno(), "Ctrl-C")
            process.terminate()
            assert process.wait(60) == 0
            assert process.stdout.read() == b""
            assert process.stderr.read().endswith(b"stopped.\n")
        finally:
            process.kill()
