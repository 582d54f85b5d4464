"""What the optimiser makes of a batch: one step of training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from training.losses import Ramps
from training.parts.part import Nodes
from training.pieces import gradients
from training.recorded import recorder
from training.setup import Setup


def stepper(s: Setup) -> Callable[[Nodes, Ramps, int, Sequence[int]], tuple[dict[str, Tensor], bool]]:
    """What takes a training's steps: `update`, or with ``--graph`` the record of one."""
    if not s.config.graph:
        return partial(update, s)
    recorded = recorder(s.engine, s.optimizer, s.config)
    return lambda given, ramps, place, interrupted: (recorded(given, ramps), bool(interrupted))


def update(
    s: Setup, given: Nodes, ramps: Ramps, place: int, interrupted: Sequence[int]
) -> tuple[dict[str, Tensor], bool]:
    """Take one step. Returns the parts of the loss, and whether any process of this training has been
    ``interrupted`` until then.

    In fp16 the loss is scaled, so that small gradients do not vanish; a step whose gradients overflow leaves
    the weights as they are, and lowers the scale (Micikevicius et al. 2018; torch's GradScaler).
    """
    cohort = s.engine.cohort
    s.optimizer.zero_grad(set_to_none=True)
    factor = s.scaler.scale(torch.ones((), device=s.engine.device)) if s.scaler.is_enabled() else 1.0
    parts = gradients(s.engine, given, ramps, s.config.accumulate, place, factor)
    stopped = s.world.average(cohort.parameters(), bool(interrupted))
    s.scaler.unscale_(s.optimizer)
    if s.config.clip_norm:
        torch.nn.utils.clip_grad_norm_(cohort.parameters(), s.config.clip_norm)
    s.scaler.step(s.optimizer)
    s.scaler.update()
    return parts, stopped
