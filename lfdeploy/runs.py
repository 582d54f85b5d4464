"""The directory of runs: how one comes to be, which there are, and which is the newest."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from errno import EEXIST, ENOTDIR, ENOTEMPTY
from pathlib import Path

from lfdeploy.console import say
from lfdeploy.errors import LfdeployError
from lfdeploy.locks import Held, Lock, take
from lfdeploy.names import check_name, printable
from lfdeploy.run import Run, write_bytes, write_json

YOUNG = 60.0  # seconds


def may_begin(runs: Path, name: str | None) -> None:
    """Raise before any work where a new run could not be written, or not under this name."""
    check_name(name)
    if name is not None and os.path.lexists(runs / name):
        raise LfdeployError(taken(name, runs))
    parent = runs.absolute()
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise FileExistsError(EEXIST, os.strerror(EEXIST), str(runs))
    if not os.access(parent, os.W_OK | os.X_OK):
        raise LfdeployError(f"--runs {runs}: {parent} may not be written; name another place.")


def new_run(runs: Path, name: str | None, stem: str, documents: Mapping[str, object]) -> tuple[Run, Lock]:
    """A new run's directory with its first documents, whole from the first moment, and its lock, which
    is held.

    It is named, or called after ``stem`` with the next free number.
    """
    runs.mkdir(parents=True, exist_ok=True)
    sweep(runs)
    staged = runs / f".new.{secrets.token_hex(4)}"
    staged.mkdir()
    lock = take(staged / ".lock")
    number = 1
    try:
        for file, document in documents.items():
            if isinstance(document, bytes):
                write_bytes(staged / file, document)
            else:
                write_json(staged / file, document)
        while True:
            path = runs / (name or f"{stem}-{number}")
            try:
                if path.exists():
                    raise FileExistsError
                os.rename(staged, path)
                return Run(path), replace(lock, file=path / ".lock")
            except OSError as error:
                if error.errno not in (None, EEXIST, ENOTDIR, ENOTEMPTY):
                    raise
                if name is not None:
                    raise LfdeployError(taken(name, runs)) from None
                number += 1
    except BaseException:
        lock.release()
        shutil.rmtree(staged, ignore_errors=True)
        raise


def taken(name: str, runs: Path) -> str:
    """What to say where a run of this name exists."""
    return f"There is a run '{name}' in {runs}/ already. Choose another --name, or --resume {name}."


def sweep(runs: Path) -> None:
    """Remove what trainings left behind that died before their run had its name."""
    for file in runs.glob(".new.*/.lock"):
        try:
            if time.time() - file.parent.stat().st_mtime < YOUNG:
                continue  # its own training may not have locked it yet
            lock = take(file)
        except (Held, OSError):
            continue
        if lock.descriptor is not None:
            shutil.rmtree(file.parent, ignore_errors=True)
        lock.release()


def resolve(run: str | Path | None, runs: str | Path = "runs") -> Run:
    """A run by path or name, or for None the newest, whose name is said. Raises with the names there are."""
    if run is None or (str(run) == "latest" and (Path(runs) / "latest").is_symlink()):
        chosen = newest(runs)
        say(f"Run: {chosen.name} (the newest)")
        return chosen
    for path in (Path(run), Path(runs) / run):
        if (path / "config.json").is_file():
            return Run(path.resolve() if path.is_symlink() else path)
    names = ", ".join(sorted(r.name for r in all_runs(runs))) or "none; make one with: lfdeploy train"
    raise LfdeployError(f"There is no run '{run}'. Runs in {runs}/: {names}.")


def newest(runs: str | Path) -> Run:
    """The run that runs/latest points at; where that is no run, the one made last, and the link is mended."""
    rows = newest_first(runs)
    if not rows:
        raise LfdeployError(f"There is no run in {runs}/ yet. Make one with: lfdeploy train")
    link = Path(runs) / "latest"
    if link.is_symlink() and not (link / "config.json").is_file():
        gone = printable(str(link.readlink()))
        say(f"Note: {link} pointed at {gone}, which is no run; now it points at {rows[0].name}.")
        point_latest(rows[0])
    return rows[0]


def newest_first(runs: str | Path) -> list[Run]:
    """Every run in a directory: the one that runs/latest points at, then the others, the last made first."""
    rows = list(reversed(all_runs(runs)))
    link = Path(runs) / "latest"
    if link.is_symlink() and (link / "config.json").is_file():
        target = link.resolve()
        inside = target.parent == Path(runs).resolve()
        first = Run(Path(runs) / target.name if inside else target)
        rows = [first, *(run for run in rows if run.path.resolve() != target)]
    return rows


def all_runs(runs: str | Path) -> list[Run]:
    """Every run in a directory, the first made first."""
    stamps = []
    for path in Path(runs).glob("[!.]*"):
        file = path / "config.json"
        if file.is_file() and not path.is_symlink():
            stamps.append((file.stat().st_mtime_ns, path))
    return [Run(path) for _, path in sorted(stamps)]


def point_latest(run: Run) -> None:
    """Make runs/latest a link to this run, in one step; where that cannot be, say so and go on."""
    link = run.path.parent / "latest"
    partial = run.path.parent / f".latest.{secrets.token_hex(4)}"
    try:
        partial.symlink_to(run.path.name)
        os.replace(partial, link)
    except OSError as error:
        partial.unlink(missing_ok=True)
        say(f"Note: {link} cannot be made a link to {run.name} ({error.strerror}): name the run from now on.")
