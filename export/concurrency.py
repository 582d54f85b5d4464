"""Exports beside each other: an artifact is made by one process at a time, which alone touches what
it stages.
"""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path

from lfdeploy.artifact import read
from lfdeploy.console import say
from lfdeploy.errors import LfdeployError
from lfdeploy.locks import Lock, take
from lfdeploy.places import check_place


@dataclass(frozen=True)
class Claim:
    """An artifact's place, held against other processes; ``key`` is a hash of all that it is made from.

    ``done``: another process that held it published what was to be made.
    """

    final: Path
    key: str
    lock: Lock
    done: bool = False

    @property
    def staged(self) -> Path:
        """Where it waits for its proof, to be found again by an export after one that was interrupted."""
        return self.final.resolve().with_name(f".{self.final.name}.{self.key}")

    def workplace(self) -> Path:
        """A new name for it while it is built."""
        return self.staged.with_name(f"{self.staged.name}.{secrets.token_hex(4)}")


def claim(finals: Sequence[Path], keys: Sequence[str]) -> list[Claim]:
    """Hold every place, in their order; where another process holds one, say so and wait for it.

    All processes take them in the order of their names, so that no two wait for each other.
    """
    held: dict[Path, Claim] = {}
    try:
        for final, key in sorted(zip(finals, keys, strict=True)):
            check_place(final)
            held[final] = _claim(final, key)
    except BaseException:
        release(list(held.values()))
        raise
    return [held[final] for final in finals]


def _claim(final: Path, key: str) -> Claim:
    waited: list[str] = []

    def waiting(owner: str) -> None:
        say(f"{final.name} is being exported by {owner}; waiting for it.")
        waited.append(owner)

    place = final.resolve()
    place.parent.mkdir(parents=True, exist_ok=True)
    own = Claim(final, key, take(place.with_name(f".{place.name}.lock"), waiting))
    if waited and _published(final, key):
        say(f"{final.name}: taken as the other export made it; everything that it depends on is the same.")
        return replace(own, done=True)
    _sweep(own)
    return own


def _published(final: Path, key: str) -> bool:
    try:
        return read(final).manifest.get("made_from") == key
    except LfdeployError:
        return False


def _sweep(own: Claim) -> None:
    """Remove what exports that died left behind and nothing can use: nobody else
    works here while it is held.
    """
    if own.lock.descriptor is None:
        return
    place = own.final.resolve()
    for left in place.parent.glob(f".{escape(place.name)}.*"):
        kind = left.name[len(place.name) + 2 :]
        if re.fullmatch(r"[0-9a-f]{12}(\.[0-9a-f]{8})?|[0-9a-f]{8}\.old", kind) and left != own.staged:
            shutil.rmtree(left, ignore_errors=True)


def release(claims: Sequence[Claim]) -> None:
    """Let others have the places."""
    for own in claims:
        own.lock.release()
