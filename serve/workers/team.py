"""The first process's side: it starts the workers, hands connections to them, and ends with them."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from serve.problems import Problem
from serve.said import say
from serve.workers.channel import ASKED, AT_ONCE, END, READY, RELOAD, VISITOR, Channel
from serve.workers.relay import fetch
from serve.workers.summed import lasting, summed

COMMAND = [sys.executable, "-P", "-m", "serve.workers.process"]
#: Seconds that a worker may take to end, to say its counts, and to open artifacts anew.
END_WITHIN, ANSWER_WITHIN, LOAD_WITHIN = 12.0, 5.0, 120.0
#: Seconds before one that died is replaced, and before one that did not start is tried again.
PAUSE, AGAIN = 1.0, 10.0
#: Where there are no more handles or buffers, connections wait in the kernel for a while.
FULL = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


@dataclass(eq=False)
class Member:
    """A worker as the first process sees it: whether it answers, and what it last said of its counts."""

    process: subprocess.Popen[bytes]
    channel: Channel
    ready: bool = False
    settled: bool = False
    metrics: str = ""


class Team:
    """The workers. ``settings()`` is what a new one needs to know; ``token`` is the server's, or empty."""

    def __init__(self, count: int, settings: Callable[[], dict[str, Any]], token: str) -> None:
        self._settings, self._token = settings, token
        self._take: Callable[[socket.socket, bool], None] = lambda connection, private: connection.close()
        self._listener: socket.socket | None = None
        self._turn, self._ends, self._lost_metrics = 0, False, ""
        self._until = 0.0
        self._members = [started(settings()) for _ in range(count)]
        self._processes = [member.process for member in self._members]

    async def gathered(self, take: Callable[[socket.socket, bool], None], ends: Callable[[], bool]) -> None:
        """Wait until every worker answers or has ended, or ``ends()``. ``take`` answers a connection in this
        process.
        """
        self._take, awaited = take, list(self._members)
        for member in awaited:
            self._listen(member)
        while not all(member.settled for member in awaited) and not ends():
            await asyncio.sleep(0.02)

    def accept_from(self, listener: socket.socket) -> None:
        """Hand out the connections that arrive there from now on."""
        listener.setblocking(False)
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener.fileno(), self._accept)

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            for _ in range(AT_ONCE):
                self._hand_out(self._listener.accept()[0])
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno in FULL:
                loop, listener = asyncio.get_running_loop(), self._listener
                loop.remove_reader(listener.fileno())
                loop.call_later(PAUSE, self._again, listener)

    def _again(self, listener: socket.socket) -> None:
        if not self._ends:
            self.accept_from(listener)

    def _hand_out(self, connection: socket.socket) -> None:
        """Each in turn, this process too; what a worker cannot take is answered here."""
        connection.setblocking(False)
        able = [None, *(member for member in self._members if member.ready)]
        self._turn = (self._turn + 1) % len(able)
        member = able[self._turn]
        if member is None or not member.channel.send(VISITOR, connection):
            self._take(connection, False)

    def _listen(self, member: Member) -> None:
        asyncio.get_running_loop().add_reader(member.channel.fileno(), self._heard, member)

    def _heard(self, member: Member) -> None:
        for word, connection in member.channel.messages():
            if word == READY:
                member.ready = member.settled = True
            elif word == ASKED and connection is not None:
                self._take(connection, True)
            elif not word:
                self._lost(member)

    def _lost(self, member: Member) -> None:
        """Its channel is closed: it has ended. One that had answered is replaced."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(member.channel.fileno())
        member.channel.close()
        member.settled = True
        self._members.remove(member)
        self._lost_metrics = lasting([self._lost_metrics, member.metrics])
        if self._ends:
            return
        member.process.kill()  # whatever it still does, nobody hears of it
        loop.run_in_executor(None, member.process.wait)
        self._processes.remove(member.process)
        if member.ready:
            say(f"lfdeploy serve: worker {member.process.pid} has ended; another one takes its place.")
            loop.call_later(PAUSE, self._replace)
        else:
            count = 1 + len(self._members)
            serve = "process serves" if count == 1 else "processes serve"
            say(f"lfdeploy serve: a worker did not start; {count} {serve} meanwhile.")
            loop.call_later(AGAIN, self._replace)

    def _replace(self) -> None:
        if self._ends:
            return
        try:
            member = started(self._settings())
        except OSError:  # no more processes or handles
            asyncio.get_running_loop().call_later(AGAIN, self._replace)
            return
        self._members.append(member)
        self._processes.append(member.process)
        self._listen(member)

    def reload(self) -> None:
        """Let every worker read its artifacts anew."""
        for member in self._members:
            member.channel.send(RELOAD)

    async def load(self, path: str) -> None:
        """Ask every worker for the path that replaces an artifact. Raises `Problem` where one does not."""
        able = [member for member in self._members if member.ready]
        replies = await asyncio.gather(*(self._asked(member, "POST", path, LOAD_WITHIN) for member in able))
        refused = sum(status != 200 for status, _ in replies)
        if refused:
            text = f"{refused} of {len(replies) + 1} processes stay as they were; the terminal says why."
            raise Problem("swap_refused", text)

    async def metrics(self, own: bytes) -> bytes:
        """The counts of all processes in one text; of workers that ended, those that were last asked for."""

        async def update(member: Member) -> None:
            status, body = await self._asked(member, "GET", "/metrics")
            member.metrics = body.decode() if status == 200 else member.metrics

        await asyncio.gather(*map(update, self._members))
        return summed([own.decode(), self._lost_metrics, *(member.metrics for member in self._members)])

    async def _asked(
        self, member: Member, method: str, path: str, within: float = ANSWER_WITHIN
    ) -> tuple[int, bytes]:
        """Status and body of a worker's answer; 0 where there is none."""
        try:
            end = member.channel.connect() if member.ready else None
            if end is None:
                return 0, b""
            async with asyncio.timeout(within):
                return await fetch(end, method, path, self._token)
        except (OSError, TimeoutError):
            return 0, b""

    def end(self) -> None:
        """Take no more connections, and let every worker finish and end."""
        self._ends, self._until = True, time.monotonic() + END_WITHIN
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
            self._listener.close()
        for member in self._members:
            member.channel.send(END)

    def reap(self) -> None:
        """Wait for the processes; a channel that is closed tells them, whatever else went wrong."""
        self._ends = True
        for member in self._members:
            member.channel.send(END)
            member.channel.close()
        until = self._until or time.monotonic() + END_WITHIN
        for process in self._processes:
            try:
                process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                say(f"lfdeploy serve: worker {process.pid} did not end and is killed.")
                process.kill()
                process.wait()


@contextmanager
def team_of(count: int, settings: Callable[[], dict[str, Any]], token: str) -> Iterator[Team | None]:
    """So many workers, all of which have ended afterwards; None for none."""
    if not count:
        yield None
        return
    team = Team(count, settings, token)
    try:
        yield team
    finally:
        team.reap()


def started(settings: dict[str, Any]) -> Member:
    """A worker's process with its channel and its settings."""
    ours, theirs = socket.socketpair()
    with theirs:
        handle = theirs.fileno()
        # a group of its own: what a terminal sends to all is for the first process
        command = [*COMMAND, str(handle)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[handle], process_group=0)
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin as stdin:
        stdin.write(json.dumps(settings).encode())
    return Member(process, Channel(ours))
