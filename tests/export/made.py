"""What many tests share, made once for this code and kept for the next processes."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

from lfdeploy.devices import instruction_set

ROOT = Path(__file__).parents[2]


def made_by() -> str:
    """A digest of all that decides what this code makes here."""
    rooms = (ROOT / room for room in ("lfdeploy", "training", "export", "tests/export"))
    files = [*sorted(path for room in rooms for path in room.rglob("*.py")), ROOT / "tests" / "conftest.py"]
    digest = hashlib.sha256(instruction_set().encode())
    for file in (*files, ROOT / "requirements.lock"):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def made_once(name: str, make: Callable[[Path], object], place: Path) -> None:
    """Fill ``place`` with what ``make`` writes into a folder: made by the first process that asks for it with
    this code, and copied for all others.
    """
    home = ROOT / ".pytest_cache" / "made"
    home.mkdir(parents=True, exist_ok=True)
    kept = home / f"{name}-{made_by()}"
    with (home / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            for old in home.glob(f"{name}-*"):
                shutil.rmtree(old)
            staged = home / f"{name}-staged"  # what a process left that died here is an old one to the next
            make(staged)
            staged.rename(kept)
        shutil.copytree(kept, place, symlinks=True, dirs_exist_ok=True)
