"""Processes that are started by hand, or by half: one line says what is wrong, and a signal ends the wait."""

from __future__ import annotations

import os
import signal
import socket
import threading
from datetime import timedelta
from types import FrameType

import pytest
import torch

from lfdeploy import console
from lfdeploy.errors import LfdeployError
from training import meeting
from training.world import ALONE, join, started_first

NAMES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK")


def environment(monkeypatch: pytest.MonkeyPatch, **given: object) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, str(value))


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"WORLD_SIZE": "abc", "RANK": "0"}, "WORLD_SIZE is 'abc'"),
        ({"WORLD_SIZE": "2", "RANK": "x"}, "RANK is 'x'"),
        ({"WORLD_SIZE": "0", "RANK": "0"}, "WORLD_SIZE is 0"),
        ({"WORLD_SIZE": "2"}, "RANK is not set"),
        ({"RANK": "1"}, "WORLD_SIZE is not set"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK is 2"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR is not set"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1"}, "MASTER_PORT is not set"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "b"}, "MASTER_PORT is 'b'"),
    ],
)
def test_variables_that_cannot_be(given: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, **given)
    with pytest.raises(LfdeployError, match=said) as caught:
        started_first()
    assert "torchrun" in str(caught.value) and "unset RANK and WORLD_SIZE" in str(caught.value)
    assert not console.is_silent()


@pytest.mark.parametrize("given", [{}, {"WORLD_SIZE": "1"}, {"RANK": "0"}, {"RANK": "0", "WORLD_SIZE": "1"}])
def test_alone(given: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, **given)
    assert started_first() and join("cpu") is ALONE


@pytest.mark.parametrize("rank", [0, 1])
def test_others_that_do_not_come(
    rank: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says for whom it waits, where, and gives up in minutes."""
    port = free_port()
    environment(monkeypatch, WORLD_SIZE=2, RANK=rank, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    monkeypatch.setattr(meeting, "NOTICE", 0.0)
    monkeypatch.setattr(meeting, "LIMIT", 0.3)
    with pytest.raises(LfdeployError, match=rf"did not all meet at 127.0.0.1:{port} within .* torchrun"):
        join("cpu")
    assert (
        f"waits for all 2 processes of this training to meet at 127.0.0.1:{port}" in capsys.readouterr().err
    )


def test_a_place_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        environment(monkeypatch, WORLD_SIZE=2, RANK=0, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        with pytest.raises(LfdeployError, match=r"cannot meet: .*torchrun"):
            join("cpu")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_wait(number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ended(BaseException):
        pass

    def end(number: int, frame: FrameType | None) -> None:
        raise Ended

    def act(*told: object) -> None:  # once it is waiting: from a thread, as this one goes on into the wait
        threading.Thread(target=os.kill, args=(os.getpid(), number)).start()

    environment(monkeypatch, WORLD_SIZE=2, RANK=0, MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port())
    monkeypatch.setattr(meeting, "NOTICE", 0.0)
    monkeypatch.setattr(meeting, "LIMIT", 20.0)
    monkeypatch.setattr(console, "say", act)
    before = signal.signal(number, end)
    try:
        with pytest.raises(Ended):
            meeting.meet("cpu", timedelta(hours=1))
    finally:
        signal.signal(number, before)


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, WORLD_SIZE=2, RANK=1, MASTER_ADDR="127.0.0.1", MASTER_PORT=1, LOCAL_RANK=1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(LfdeployError, match=r"LOCAL_RANK is 1 .* --nproc-per-node 1"):
        join("cuda")
