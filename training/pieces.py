"""The gradients of a batch that is computed piece by piece, for less memory."""

from __future__ import annotations

import torch
from torch import Tensor

from lfdeploy.config import TrainConfig
from lfdeploy.console import say
from lfdeploy.errors import UsageError
from training.dropout import at_step
from training.engine import Engine
from training.losses import Ramps
from training.methods.method import Method
from training.parts.part import Nodes


def gradients(
    engine: Engine, given: Nodes, ramps: Ramps, pieces: int, place: int, factor: Tensor | float = 1.0
) -> dict[str, Tensor]:
    """Fill ``.grad`` with ``factor`` times the gradient of a batch's loss, and return the parts of that loss.

    ``pieces``: into how many the batch is cut, each computed by itself, one after the other; the loss is
    their mean, weighted by pictures, and BatchNorm sees one piece. ``place``: of the step in the training,
    which decides what dropout draws.
    """
    if pieces == 1:
        at_step(engine.cohort, place)
        return engine.step(given, ramps, factor)
    size = len(given["labels"])
    sums: dict[str, Tensor] = {}
    seen: dict[str, Tensor] = {}
    for number, piece in enumerate(_cut(given, pieces)):
        share = len(piece["labels"]) / size
        at_step(engine.cohort, place * pieces + number)
        parts = engine.step(piece, ramps, factor * share)
        for whole, values in ((sums, parts), (seen, engine.seen)):
            for name, value in values.items():
                whole[name] = whole.get(name, torch.zeros_like(value)) + share * value
    engine.seen = seen
    return sums


def _cut(given: Nodes, pieces: int) -> list[Nodes]:
    """The tensors of a batch, piece by piece; single numbers go to each."""
    cut = {name: x.chunk(pieces) if x.dim() else (x,) * pieces for name, x in given.items()}
    return [{name: x[number] for name, x in cut.items()} for number in range(len(cut["labels"]))]


def check_pieces(config: TrainConfig, method: Method, processes: int) -> None:
    """Raise `UsageError` for a batch that cannot be cut so; say what then differs from the whole batch."""
    size, pieces = (config.batch_size or 1) // processes, config.accumulate
    if pieces == 1:
        return
    if size % pieces:
        raise UsageError(f"--accumulate {pieces} does not divide a batch of {size}; take a number that does.")
    if method.looks_across == "epochs":
        raise UsageError(f"{config.method} remembers the pictures of whole batches; drop --accumulate.")
    who = "BatchNorm" if config.balance != "weights" else "BatchNorm and the weights of classes"
    if method.looks_across == "batch":
        who += f", as {config.method} does,"
    count = size // pieces
    say(f"Note: {who} see{'s' * (who == 'BatchNorm')} {count} picture{'s' * (count > 1)} at a time.")
