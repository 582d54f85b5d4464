"""Which of many alike faults a run of the tests plants: all in `make wide`, some of them before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest


def some(cases: Sequence[Any], of: int, fast: int = 0, slow: int = 3) -> list[Any]:
    """Of every ``of`` cases the one at place ``fast`` for the fast tests, the one at ``slow`` for the slow
    ones; the others are wide. A case is a name, or a row with the name in second place.
    """
    marked = []
    for number, case in enumerate(cases):
        row = case if isinstance(case, tuple) else (case,)
        place = number % of
        marks = [] if place == fast else [pytest.mark.slow if place == slow else pytest.mark.wide]
        marked.append(pytest.param(*row, marks=marks, id=row[min(1, len(row) - 1)]))
    return marked
