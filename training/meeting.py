"""How the processes of one training find each other: by the variables that ``torchrun`` sets, within minutes,
and without making Ctrl-C wait.
"""

from __future__ import annotations

import os
import socket
import time
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from lfdeploy import console
from lfdeploy.errors import LfdeployError

LIMIT = 600.0  # seconds in which all processes must be there
NOTICE = 5.0  # seconds of silent waiting
MOMENT = 0.05  # seconds between two looks
HERE = "here"  # counts the processes that are there
START = "Start all of them with torchrun; to train in one process, unset RANK and WORLD_SIZE."
HOW = "Start all processes with torchrun, which sets it; to train in one process, unset RANK and WORLD_SIZE."


def place() -> tuple[int, int]:
    """Which process of how many this one is, by its environment; (0, 1) where that says nothing.

    Raises `LfdeployError` for variables that cannot be, or lack others.
    """
    rank, size = _number("RANK"), _number("WORLD_SIZE")
    if size is not None and size < 1:
        raise LfdeployError(f"WORLD_SIZE is {size} in the environment; it must be 1 or greater. {HOW}")
    if rank is None and (size or 1) > 1:
        raise LfdeployError(f"WORLD_SIZE is {size} in the environment, and RANK is not set. {HOW}")
    if rank is not None and rank >= (size or 1):
        many = f"WORLD_SIZE is {size}" if size else "WORLD_SIZE is not set"
        raise LfdeployError(f"RANK is {rank} in the environment, and {many}; RANK must be less. {HOW}")
    if (size or 1) > 1:
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            if not os.environ.get(name):
                raise LfdeployError(f"WORLD_SIZE is {size} in the environment, and {name} is not set. {HOW}")
        _number("MASTER_PORT")
    return rank or 0, size or 1


def _number(name: str) -> int | None:
    text = os.environ.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal()):
        raise LfdeployError(f"{name} is '{text}' in the environment; it must be a whole number. {HOW}")
    return int(text)


def meet(device: str, patience: timedelta) -> None:
    """Connect to the other processes, whose collectives then have ``patience``.

    Raises `LfdeployError` where they are not all there in time. Within a library's own wait no signal would
    be heard: the wait is a loop of ours, and the library is called when nothing keeps it.
    """
    rank, size = place()
    if device == "cuda":
        _take_gpu()
    wait = _Wait(rank, size)
    try:
        store = _store(rank, size, wait)
        store.add(HERE, 1)
        while store.add(HERE, 0) < size:
            wait.a_little()
        store.set_timeout(patience)
        backend = "nccl" if device == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=patience, rank=rank, world_size=size, store=store)
    except RuntimeError as error:
        said = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise LfdeployError(f"The {size} processes of this training cannot meet: {said}. {START}") from None


class _Wait:
    """The time that the others have to come; after some seconds it is said."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size, self.begun, self.told = rank, size, time.monotonic(), False
        self.where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"

    def a_little(self) -> None:
        """Wait a moment. Raises `LfdeployError` when the time is over."""
        spent = time.monotonic() - self.begun
        if spent > NOTICE and not self.told:
            self.told = True
            everybody = f"all {self.size} processes of this training to meet at {self.where}"
            _say_aloud(f"Process {self.rank} waits for {everybody}. Ctrl-C ends it.")
        if spent > LIMIT:
            raise LfdeployError(
                f"The {self.size} processes of this training did not all meet at {self.where} within "
                f"{LIMIT / 60:g} minutes. {START}"
            )
        time.sleep(MOMENT)


def _store(rank: int, size: int, wait: _Wait) -> Store:
    """Where the processes write that they are there: of ``torchrun``, or else of the first process."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    of_torchrun = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    opens = rank == 0 and not of_torchrun
    while not opens and not _is_open(host, port):
        wait.a_little()
    store = TCPStore(host, port, size, opens, timedelta(seconds=LIMIT), wait_for_workers=False)
    return PrefixStore(f"lfdeploy/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _is_open(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=1.0):
            return True
    except OSError:
        return False


def _say_aloud(message: str) -> None:
    """Say it in a process that is silent as well: each of them may be the one that waits in vain."""
    silent = console.is_silent()
    console.be_silent(False)
    console.say(message)
    console.be_silent(silent)


def _take_gpu() -> None:
    number, count = _number("LOCAL_RANK") or 0, torch.cuda.device_count()
    if number >= count:
        raise LfdeployError(
            f"LOCAL_RANK is {number} in the environment, and this machine has GPUs 0 to {count - 1}. Start "
            f"at most {count} processes here: torchrun --nproc-per-node {count}"
        )
    torch.cuda.set_device(number)
