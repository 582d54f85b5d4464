"""How many epochs fit into a given time, from a few measured steps that leave no trace."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lfdeploy.config import TrainConfig, seconds_of
from lfdeploy.data import Data
from lfdeploy.errors import TooShort
from lfdeploy.recorded_logits import PICTURES
from training.batches import Batches
from training.checkpoint import gpus_of, random_states
from training.engine import Engine
from training.evaluate import evaluate_cohort
from training.pieces import gradients
from training.precision import settle
from training.recorded import recorder

MEASURED = 3  # steps, after one that is not counted
SPARE = 0.96  # of the time is planned with: a machine is not equally fast all along
LAST = 5.0  # seconds for the pictures of the run and for the process to end


@dataclass(frozen=True)
class Costs:
    """Seconds: of a step, of evaluating a picture, and of what precedes the first step."""

    step: float
    picture: float
    begin: float = 0.0


def measured(
    engine: Engine,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    data: Data,
    mean: Tensor,
    std: Tensor,
    config: TrainConfig,
) -> Costs:
    """What a step as the config has it and an evaluated picture cost here, and with ``graph`` a record of the
    step. Weights, statistics and random numbers stay as they were, and the optimiser as new.
    """
    cohort = engine.cohort
    state = {name: value.clone() for name, value in cohort.state_dict().items()}
    random, gpus = torch.get_rng_state(), random_states(cohort)
    cohort.train()
    ramps = engine.graph.ramps(0, 1, engine.device)
    epochs = itertools.chain.from_iterable(batches.epoch(number) for number in itertools.count())

    def seconds(count: int) -> list[float]:
        found, record = [], recorder(engine, optimizer, config) if config.graph else None
        for _ in range(count):
            begun = time.perf_counter()
            given = next(epochs).given(mean, std)
            if record is not None:
                record(given, ramps)
            else:
                optimizer.zero_grad(set_to_none=True)
                gradients(engine, given, ramps, config.accumulate, 0)
                optimizer.step()
            settle(engine.device)
            found.append(time.perf_counter() - begun)
        return found

    step = min(seconds(1 + MEASURED)[1:])
    begin = seconds(1)[0] if config.graph else 0.0  # again: the first record loads libraries too
    few = data.train.take(np.arange(min(32 if engine.device == "cpu" else 1024, len(data.train))))
    evaluate_cohort(engine, few.take(np.arange(min(8, len(few)))), mean, std)  # the first makes its kernels
    begun = time.perf_counter()
    evaluate_cohort(engine, few, mean, std)
    picture = (time.perf_counter() - begun) / len(few)
    optimizer.zero_grad(set_to_none=True)
    optimizer.state.clear()
    cohort.load_state_dict(state)
    torch.set_rng_state(random)
    for device, rng in zip(gpus_of(cohort), gpus, strict=True):
        torch.cuda.set_rng_state(rng, device)
    return Costs(step, picture, begin)


def fitting(costs: Costs, asked: str, left: float, whole: int, data: Data) -> tuple[int, int]:
    """Epochs, and the steps of each, at most ``whole``, for which the seconds that are ``left`` of the time
    that is ``asked`` suffice, the evaluations included.

    Raises `LfdeployError` where not even a tenth of an epoch does.
    """
    kept_too = 2 if len(data.val) else 1  # without a validation split the last epoch is the kept one
    ends = kept_too * len(data.test) + len(data.val) + PICTURES
    seconds = seconds_of(asked)
    room = left - (1 - SPARE) * seconds - LAST - costs.begin - ends * costs.picture
    epochs = 1
    while True:
        steps = int((room - epochs * len(data.val) * costs.picture) / costs.step)
        if steps <= epochs * whole or steps <= 0:
            break
        epochs += 1
    if steps < max(1, whole // 10):
        fixed = seconds - left + LAST + costs.begin + (ends + len(data.val)) * costs.picture
        needed = (fixed + whole * costs.step) / SPARE
        raise TooShort(
            f"--time {asked} is too short: one epoch needs {told(needed)}, with the reading of the pictures "
            f"and all evaluations. Try --time {enough(needed)}.",
            needed,
        )
    return epochs, max(1, steps // epochs)


def told(seconds: float) -> str:
    """Seconds as --time has them: 45s, 4m40s, 1h5m."""
    whole = math.ceil(seconds)
    parts = [(whole // 3600, "h"), (whole // 60 % 60, "m"), (whole % 60 if whole < 3600 else 0, "s")]
    return "".join(f"{number}{unit}" for number, unit in parts if number) or "1s"


def enough(seconds: float) -> str:
    """A round time that suffices for so many seconds where the machine is a tenth slower the next time."""
    spared = 1.1 * seconds
    step = 10 if spared <= 60 else 60 if spared <= 3600 else 600
    return told(math.ceil(spared / step) * step)
