"""An average of the weights over the steps, judged and kept in their place (Polyak and Juditsky 1992).

a <- d a + (1 - d) w after every step, statistics of BatchNorm included; d is at most (1 + t) / (10 + t) at
step t, so that the beginning is soon forgotten. What a part learns from validation is not averaged.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from training.cohort import Cohort


class Average:
    """The average of a cohort's tensors, by the names of `Cohort.kept`."""

    def __init__(self, cohort: Cohort, decay: float) -> None:
        self.decay = decay
        own = tuple(f"{name}." for name, part in cohort.parts.items() if part.learns_from_validation)
        self.names = [name for name in cohort.kept() if not name.startswith(own or ("\0",))]
        self.values = [tensor.clone() for tensor in self._live(cohort)]

    def _live(self, cohort: Cohort) -> list[Tensor]:
        tensors = cohort.kept()
        return [tensors[name] for name in self.names]

    @torch.no_grad()
    def update(self, cohort: Cohort, step: int) -> None:
        """Follow the weights after step ``step``, counted from 0."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        pairs = list(zip(self.values, self._live(cohort), strict=True))
        moving = [pair for pair in pairs if pair[0].is_floating_point()]
        torch._foreach_lerp_([mean for mean, _ in moving], [live for _, live in moving], weight)
        for mean, live in pairs:
            if not mean.is_floating_point():
                mean.copy_(live)

    @contextmanager
    def applied(self, cohort: Cohort) -> Iterator[None]:
        """While the context lasts, the cohort has the averaged tensors."""
        live = self._live(cohort)
        kept = [tensor.clone() for tensor in live]
        self._put(live, self.values)
        try:
            yield
        finally:
            self._put(live, kept)

    @torch.no_grad()
    def _put(self, places: list[Tensor], values: list[Tensor]) -> None:
        for place, value in zip(places, values, strict=True):
            place.copy_(value)

    def state(self) -> dict[str, Tensor]:
        """All of it, for a checkpoint."""
        return dict(zip(self.names, self.values, strict=True))

    def take(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self._put(self.values, [state[name] for name in self.names])


def applied(average: Average | None, cohort: Cohort) -> Any:
    """`Average.applied`, or nothing where there is no average."""
    return nullcontext() if average is None else average.applied(cohort)
