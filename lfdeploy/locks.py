"""Locks between processes, by the operating system: one that dies, however it dies, holds nothing any more.

A lock is a file that is held with flock, so it works between containers that share a directory too, where process
numbers mean nothing. The file says who holds it; it goes when the lock is released.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lfdeploy.console import say
from lfdeploy.errors import LfdeployError

WITHOUT = (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL)  # what file systems without locks answer


class Held(LfdeployError):
    """Another process holds the lock; ``owner`` says which, as far as it can be told."""

    def __init__(self, owner: str) -> None:
        super().__init__(f"held by {owner}")
        self.owner = owner


@dataclass(frozen=True)
class Lock:
    """A lock that this process holds; ``descriptor`` is None where the file system has no locks."""

    file: Path
    descriptor: int | None

    def release(self) -> None:
        """Give it up, and take its file away first, so that nobody takes a file that is about to go."""
        if self.descriptor is not None:
            self.file.unlink(missing_ok=True)
            fcntl.flock(self.descriptor, fcntl.LOCK_UN)
            os.close(self.descriptor)


def take(file: Path, waiting: Callable[[str], None] | None = None) -> Lock:
    """The lock of this name. Held by another: raise `Held`, or call ``waiting`` with the owner and wait."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            usable = _flock(descriptor, file, waiting)
            if usable and not _still(file, descriptor):  # its last holder took the file away meanwhile
                os.close(descriptor)
                continue
        except BaseException:
            os.close(descriptor)
            raise
        if not usable:
            os.close(descriptor)
            file.unlink(missing_ok=True)
            say(f"Note: {file.parent} is on a file system without locks: run nothing twice at once there.")
            return Lock(file, None)
        _sign(descriptor)
        return Lock(file, descriptor)


def owner_of(file: Path) -> str:
    """Who holds the lock of this name; empty when nobody does."""
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except OSError:
        return ""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _owner(file)
    except OSError:
        return ""
    finally:
        os.close(descriptor)
    return ""


def _flock(descriptor: int, file: Path, waiting: Callable[[str], None] | None) -> bool:
    """Whether the lock was taken; False where there are no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = _owner(file)
        if waiting is None:
            raise Held(owner) from None
        waiting(owner)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in WITHOUT:
            raise
        return False
    return True


def _still(file: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(file.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _sign(descriptor: int) -> None:
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
    except OSError:  # a full disk: the lock holds without a name
        pass


def _owner(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip() or "another process"
    except OSError:
        return "another process"
