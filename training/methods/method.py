"""What a method is: its options, a cohort built from plain peers, and its loss as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lfdeploy.models.backbone import Backbone
from training.cohort import Cohort
from training.losses import LossGraph


@dataclass(frozen=True)
class Method:
    """A row of the table.

    ``options`` is a flat frozen dataclass (``-o KEY VALUE``). ``build(peers, classes, image_size, options)``
    returns the cohort; ``graph(cohort, options)`` its loss.
    """

    about: str
    options: type[Any]
    build: Callable[[list[Backbone], int, int, Any], Cohort]
    graph: Callable[[Cohort, Any], LossGraph]
