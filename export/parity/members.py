"""A file with every output (`--all --single-file`) in the gate: each member against its own module, as
strictly as a file of its own.

The references are those of the separate targets, never the module that the file was made of: a fault in how
the members were put together is in that module too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from export.numbers.check import Check, Unexamined, equal
from export.numbers.statistics import Comparison, log_softmax
from export.parity.bounds import Bounds
from export.parity.reference import Reference
from lfdeploy.backends import Session
from lfdeploy.backends.base import Floats
from lfdeploy.images import Pixels
from lfdeploy.models.multi_output import ALL, main_of, members_of
from lfdeploy.run import Run

C = TypeVar("C", Check, Check | Unexamined)


def expanded(run: Run, target: str) -> list[str]:
    """The targets whose references a target needs: itself, or for ``all`` the main one and each member."""
    return [main_of(run.spec), *members_of(run.spec)] if target == ALL else [target]


def combined(run: Run, one: Callable[[str], Reference]) -> Reference:
    """The reference of ``all`` from those of the separate targets, which ``one`` gives; its own logits are
    the main target's.
    """
    members = {name: one(name) for name in expanded(run, ALL)}
    return replace(members[main_of(run.spec)], target=ALL, members=members)


def main_checks(manifest: dict[str, Any], run: Run) -> Iterator[Check]:
    """Stage names: which target ``logits`` are said to be."""
    if manifest["target"] == ALL:
        yield equal("names", "main", manifest.get("main"), main_of(run.spec))


@dataclass
class Part:
    """An output with logits and the reference of its target; ``name`` is empty for the main one.

    The rest is filled on the way.
    """

    name: str
    output: str
    ref: Reference
    answers: list[Floats] = field(default_factory=list)
    comparison: list[Comparison] = field(default_factory=list)
    bounds: list[Bounds] = field(default_factory=list)

    def of(self, session: Session) -> Session:
        """The session as if this output were its only one."""
        return Member(session, self.output) if self.name else session


def parts_of(ref: Reference) -> list[Part]:
    """The main output, then one part per member."""
    main, *members = ref.members.items() or [(ref.target, ref)]
    return [Part("", "logits", main[1])] + [Part(name, f"logits_{name}", own) for name, own in members]


def each(parts: Iterable[Part], checks: Callable[[Part], Iterable[C]]) -> Iterator[C]:
    """The checks of every part, a member's under its name."""
    for part in parts:
        for check in checks(part):
            yield (
                replace(check, name=f"{part.name}: {check.name}")
                if part.name and isinstance(check, Check)
                else check
            )


def documents(parts: Iterable[Part]) -> dict[str, dict[str, Any]]:
    """Statistics of the members by name, as far as they were made."""
    return {part.name: part.comparison[0].document() for part in parts if part.name and part.comparison}


class Once:
    """A session that computes a batch once, however many members are examined on it."""

    def __init__(self, session: Session) -> None:
        self.session, self.backend, self.device = session, session.backend, session.device
        self.known: dict[bytes, dict[str, Floats]] = {}

    def __call__(self, images: Pixels) -> tuple[Floats, Floats]:
        """Logits and probabilities of the main target."""
        found = self.named(images)
        return found["logits"], found["probabilities"]

    def named(self, images: Pixels) -> dict[str, Floats]:
        """Every output."""
        key = hashlib.blake2b(np.ascontiguousarray(images).tobytes(), digest_size=16).digest()
        if key not in self.known:
            self.known[key] = self.session.named(images)
        return self.known[key]


class Member:
    """A session whose logits are those of one member, with their softmax."""

    def __init__(self, session: Session, output: str) -> None:
        self.session, self.output, self.backend, self.device = (
            session,
            output,
            session.backend,
            session.device,
        )

    def __call__(self, images: Pixels) -> tuple[Floats, Floats]:
        """Logits and probabilities of the member."""
        logits = self.session.named(images)[self.output]
        return logits, np.exp(log_softmax(logits)).astype(np.float32)

    def named(self, images: Pixels) -> dict[str, Floats]:
        """The same by name."""
        logits, probabilities = self(images)
        return {"logits": logits, "probabilities": probabilities}


def table(accuracy: dict[str, Any]) -> list[tuple[str, float, float]]:
    """(output, top-1 %, top-1 % of its module) of the members; empty for a file of one target."""
    return [
        (f"logits_{name}", told["top1"], told["top1_reference"])
        for name, told in accuracy.get("members", {}).items()
    ]
