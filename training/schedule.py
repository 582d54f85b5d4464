"""Learning rate and ramp-up as pure functions of time."""

from __future__ import annotations

import math
from dataclasses import dataclass

RAMP_SHARE = 0.27  # 80 of 300 epochs, as FFL and ONE


def learning_rate(schedule: str, peak: float, warmup: float, done: float) -> float:
    """The rate after the share ``done`` of all steps, in [0, 1].

    ``cosine`` falls to 0; ``step`` is divided by 10 at 1/2 and 3/4 (150 and 225 of 300 epochs). Both rise
    linearly over the share ``warmup`` first.
    """
    if done < warmup:
        return peak * max(done, 1e-3) / warmup
    if schedule == "step":
        return peak * 0.1 ** ((done >= 0.5) + (done >= 0.75))
    return peak * 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


def ramp_up(epoch: int, length: float) -> float:
    """w(e) = exp(-5 (1 - min(e, R) / R)^2), constant within an epoch; R = 0 gives 1 (Laine & Aila 2017,
    section 3).
    """
    if length <= 0:
        return 1.0
    return math.exp(-5 * (1 - min(epoch, length) / length) ** 2)


@dataclass(frozen=True)
class Ramp:
    """How the weight of an edge grows: over a ``share`` of all epochs by `ramp_up`, or with ``burn_in`` from
    0 to 1 at once.

    A share of 0 is the full weight from the start.
    """

    share: float = 0.0
    burn_in: bool = False

    def __call__(self, epoch: int, epochs: int) -> float:
        """The factor in epoch ``epoch`` (from 0) of ``epochs``."""
        length = self.share * epochs
        return float(epoch >= length) if self.burn_in else ramp_up(epoch, length)


AT_ONCE = Ramp()
