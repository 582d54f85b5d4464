"""What a method is: its options, a cohort built from plain peers, its loss as data, and what is to be said
of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lfdeploy.models.backbone import Backbone
from training.cohort import Cohort
from training.losses import LossGraph
from training.parts import GivenTeacher
from training.terms import Term, kd


@dataclass(frozen=True)
class Given:
    """What a cohort is built from.

    ``peers``: fresh networks, of which parts take the weights. ``size``: side of the square pictures.
    ``options``: the method's. ``teachers``: trained before, for methods that are taught by them.
    ``pictures``: how many there are to train on. ``frozen``: how many leading parts of every peer, the stem
    and then stages, keep the trained weights that they have in common. ``own_views``: whether every peer sees
    its own augmentation of the pictures where the method allows it.
    """

    peers: list[Backbone]
    classes: int
    size: int
    options: Any
    teachers: Sequence[GivenTeacher] = field(default=())
    pictures: int = 1
    frozen: int = 0
    own_views: bool = False

    @property
    def names(self) -> list[str]:
        """``peer0``.., one per network."""
        return [f"peer{i}" for i in range(len(self.peers))]


@dataclass(frozen=True)
class Method:
    """A row of the table.

    ``about``: what it does, in a line. ``options``: a flat frozen dataclass (``-o KEY VALUE``). ``build``
    returns the cohort and ``graph`` its loss. ``loss``: the same as a formula. ``ships``: what is deployed.
    ``when``: when to choose it. ``source``: where it was published. ``group``: online, teacher, self or
    baseline. ``peers``: how many by default, and ``least`` of them; ``teachers``: whether it is taught by
    networks trained before. ``looks_across``: whether its loss compares pictures with each other, those of a
    ``batch``, or of earlier ``epochs`` too.
    """

    about: str
    options: type[Any]
    build: Callable[[Given], Cohort]
    graph: Callable[[Cohort, Any], LossGraph]
    loss: str
    ships: str
    when: str
    source: str
    group: str = "online"
    peers: int = 2
    least: int = 1
    teachers: bool = False
    looks_across: str = ""


def term_of(options: Any) -> Term:
    """Distillation of logits as a method's options have it:

    ``temperature`` and ``logits`` (plain or standard).
    """
    return kd(options.temperature, options.logits)
