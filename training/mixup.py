"""Pictures mixed in pairs, and their labels: mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019).

A batch is mixed with itself in reverse order, all of it by one share, so that every network that sees it, and
every teacher, sees the same mixtures. The first label is always the larger part of its picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.augment import Augment


@dataclass(frozen=True)
class Mix:
    """How one batch is mixed: the ``share`` of the first picture, from 1/2 to 1, and with ``centre`` (row,
    column, in shares of the sides) the middle of the rectangle that the other one is pasted into.
    """

    share: float
    centre: tuple[float, float] | None = None


def mixes(augment: Augment, steps: int, seed: int) -> list[Mix | None]:
    """For every step of an epoch how it is mixed, by mixup or CutMix, by chance where both are asked for."""
    if not augment.mixup and not augment.cutmix:
        return [None] * steps
    random = np.random.default_rng(seed)
    found: list[Mix | None] = []
    for _ in range(steps):
        cut = bool(augment.cutmix) and (not augment.mixup or random.random() < 0.5)
        alpha = augment.cutmix if cut else augment.mixup
        share = random.beta(alpha, alpha)
        row, column = random.random(2)
        found.append(Mix(max(share, 1 - share), (row, column) if cut else None))
    return found


def mixed(view: Tensor, mix: Mix) -> tuple[Tensor, float]:
    """uint8 (B, H, W, C) mixed with its reverse, and the share of the first picture in what came of it."""
    other = view.flip(0)
    if mix.centre is None:
        both = mix.share * view.float() + (1 - mix.share) * other.float()
        return both.round_().to(torch.uint8), mix.share
    height, width = view.shape[1:3]
    (top, bottom), (left, right) = (
        _span(centre, side, math.sqrt(1 - mix.share))
        for centre, side in zip(mix.centre, (height, width), strict=True)
    )
    pasted = view.clone()
    pasted[:, top:bottom, left:right] = other[:, top:bottom, left:right]
    return pasted, 1 - (bottom - top) * (right - left) / (height * width)


def _span(centre: float, side: int, share: float) -> tuple[int, int]:
    """Where a rectangle begins and ends on one axis, cut to the picture."""
    half = share * side / 2
    return max(0, round(centre * side - half)), min(side, round(centre * side + half))
