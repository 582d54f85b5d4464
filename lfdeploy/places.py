"""Places of artifacts: what may be replaced, and how one whole directory takes another's name."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from lfdeploy.artifact import NEEDED, OWN_FILES
from lfdeploy.console import say
from lfdeploy.errors import LfdeployError
from lfdeploy.folder_entries import JUNK
from lfdeploy.labels import some
from lfdeploy.run import shown, write_json


def check_place(final: Path) -> None:
    """Raise `LfdeployError` where something else than an artifact has the name that one is to have, or where
    files lie in it that are not an artifact's: all of it would be removed.
    """
    if not final.exists() and not final.is_symlink():
        return
    away = "Move it away, or choose another --out."
    if not (final / "manifest.json").is_file():
        raise LfdeployError(f"{final} exists and is not an artifact. {away}")
    try:
        told = json.loads((final / "manifest.json").read_text(encoding="utf-8"))
    except ValueError:  # a damaged one is made anew
        told = dict.fromkeys(NEEDED)
    if not isinstance(told, dict) or not {"schema", "target", "sha256"} <= told.keys():
        raise LfdeployError(f"{final} exists, and its manifest.json is not that of an artifact. {away}")
    known = {*OWN_FILES, told.get("file"), *(told.get("files") or {})}
    foreign = sorted(child.name for child in final.iterdir() if not _belongs(child, known))
    if foreign:
        raise LfdeployError(f"{final} has {some(foreign)} in it, which would be removed. {away}")


def _belongs(child: Path, known: Collection[object]) -> bool:
    """Whether a file is an artifact's, or what a system leaves in any folder."""
    left = child.name.casefold() in {*JUNK, ".ds_store"} or child.name.startswith("._")
    damaged = None in known and child.name.startswith("model.")  # its manifest cannot say what it is
    return left or (child.is_file() and (child.name in known or damaged))


def publish(staged: Path, final: Path) -> None:
    """Give a whole artifact its name by one rename; an older one of that name is moved aside first
    and removed.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    aside = final.with_name(f".{final.name}.{secrets.token_hex(4)}.old")
    if final.exists():
        check_place(final)
        _note_other(staged, final)
        os.rename(final, aside)
    os.rename(staged, final)
    shutil.rmtree(aside, ignore_errors=True)


def _note_other(staged: Path, final: Path) -> None:
    """Say that another kind of artifact is replaced than the one that comes, or that of another run."""

    def kind(place: Path) -> tuple[str, str, str]:
        told = json.loads((place / "manifest.json").read_text(encoding="utf-8"))
        run = told.get("run") or {}
        what = f"{told.get('target')}-{told.get('format')}-{told.get('precision')}"
        return what, str(run.get("name")), str(run.get("weights_sha256"))

    with suppress(ValueError, AttributeError):
        (was, old_run, old_weights), (now, new_run, new_weights) = kind(final), kind(staged)
        if old_weights != new_weights:
            before = "an earlier " if old_run == new_run else ""
            was, now = f"{was} of {before}run {old_run}", f"{now} of run {new_run}"
        if was != now:
            say(f"Note: {shown(final)} was {was} and is {now} now.")


def quarantine(staged: Path, final: Path, reason: dict[str, Any]) -> Path:
    """Move a failed artifact to quarantine/ beside its place, with its reason; the published one
    stays untouched.
    """
    place, number = final.parent / "quarantine" / final.name, 2
    while not _may_go(place):
        place, number = place.with_name(f"{final.name}-{number}"), number + 1
    place.parent.mkdir(parents=True, exist_ok=True)
    write_json(staged / "reason.json", reason)
    shutil.rmtree(place, ignore_errors=True)
    os.rename(staged, place)
    return place


def _may_go(place: Path) -> bool:
    try:
        check_place(place)
    except LfdeployError:
        return False
    return True
