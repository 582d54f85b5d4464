"""Locks between real processes: refused, waited for, and free as soon as their holder is dead."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lfdeploy import locks
from lfdeploy.locks import Held, owner_of, take

HOLDER = """
import sys
from pathlib import Path
from lfdeploy import locks
from lfdeploy.locks import take
lock = take(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.readline()
lock.release()
print("released", flush=True)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts a process that holds the lock until it is sent a line, or killed."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLDER, str(tmp_path / "lock")]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_another_process_is_named(tmp_path: Path, holder: Callable[[], subprocess.Popen[str]]) -> None:
    process = holder()
    with pytest.raises(Held) as caught:
        take(tmp_path / "lock")
    assert caught.value.owner.startswith(f"process {process.pid} on ")
    assert owner_of(tmp_path / "lock") == caught.value.owner


def test_a_killed_holder_holds_nothing(tmp_path: Path, holder: Callable[[], subprocess.Popen[str]]) -> None:
    process = holder()
    process.kill()
    process.wait()
    assert (tmp_path / "lock").exists()
    assert owner_of(tmp_path / "lock") == ""
    lock = take(tmp_path / "lock")
    lock.release()
    assert not (tmp_path / "lock").exists()


def test_waiting_says_for_whom_and_gets_it(
    tmp_path: Path, holder: Callable[[], subprocess.Popen[str]]
) -> None:
    """The holder releases, and takes its file away, only once this process waits for it."""
    process, owners = holder(), []

    def waiting(owner: str) -> None:
        owners.append(owner)
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()

    lock = take(tmp_path / "lock", waiting)
    assert [str(process.pid) in owner for owner in owners] == [True]
    assert owner_of(tmp_path / "lock")  # it lies under its name again: a third process meets it
    with pytest.raises(Held):
        take(tmp_path / "lock")
    lock.release()


def test_a_lock_follows_its_directory(tmp_path: Path) -> None:
    """A run gets its name by a rename while its lock is held."""
    (tmp_path / "new").mkdir()
    lock = take(tmp_path / "new" / "lock")
    (tmp_path / "new").rename(tmp_path / "run")
    with pytest.raises(Held):
        take(tmp_path / "run" / "lock")
    lock.release()


def test_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Said once, and work goes on; there is none here, so the system's answer is made up."""

    def flock(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    for _ in range(2):
        take(tmp_path / "lock").release()
    assert capsys.readouterr().err.count("has no locks: run nothing twice at once") == 1
    assert owner_of(tmp_path / "lock") == ""
    assert list(tmp_path.iterdir()) == []
