"""Loss curves of every method against files: a change of numbers must be a decision, seen in the diff."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from builders import at, built, enough, given

from training.engine import Engine
from training.methods import METHODS
from training.schedule import learning_rate, ramp_up

GOLDEN = Path(__file__).with_name("golden")
WRITE = "LFDEPLOY_WRITE_GOLDEN"
STEPS, OF, BATCH, SIZE, CLASSES = 13, 20, 16, 16, 10  # the schedule is that of twenty steps
TOLERANCE = 1e-6


def curve(method: str) -> list[float]:
    """The first steps of two resnet8, one after the other; four steps are an epoch for the ramp.

    In float64: in fp32 the roundings of another processor's kernels grow to some 1e-3 within these steps.
    """
    torch.manual_seed(0)
    row = METHODS[method]
    options = row.options()
    cohort = built(method, ["resnet8"] * enough(method), CLASSES, SIZE, options).double().train()
    engine = Engine(cohort, row.graph(cohort, options), "cpu", torch.float32, 0)
    optimizer = torch.optim.SGD(cohort.parameter_groups(5e-4), lr=0.1, momentum=0.9, nesterov=True)
    draw = torch.Generator().manual_seed(1)
    losses = []
    for step in range(STEPS):
        labels = torch.randint(0, CLASSES, (BATCH,), generator=draw)
        images = torch.randn(BATCH, 3, SIZE, SIZE, generator=draw) + labels[:, None, None, None] / CLASSES
        for group in optimizer.param_groups:
            group["lr"] = learning_rate("cosine", 0.02, 0.1, step / OF)
        optimizer.zero_grad(set_to_none=True)
        parts = engine.step(given(cohort, images.double(), labels), at(engine.graph, ramp_up(step // 4, 3)))
        optimizer.step()
        cohort.after_step(step)
        losses.append(sum(part.item() for part in parts.values()))
    return losses


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.usefixtures("one_thread")
def test_losses_are_those_of_the_file(method: str) -> None:
    file, found = GOLDEN / f"{method}.txt", curve(method)
    if os.environ.get(WRITE) == "1":
        GOLDEN.mkdir(exist_ok=True)
        file.write_text("".join(f"{step} {loss:.8f}\n" for step, loss in enumerate(found)))
    command = f"{WRITE}=1 python -m pytest tests/training/test_golden.py"
    assert file.exists(), f"{file.name} is missing; write it with: {command}"
    expected = {
        int(step): float(loss) for step, loss in (line.split() for line in file.read_text().splitlines())
    }
    assert list(expected) == list(range(STEPS))
    wrong = {
        step: (round(found[step], 8), loss)
        for step, loss in expected.items()
        if not abs(found[step] - loss) <= TOLERANCE
    }
    assert not wrong, (
        f"step: (now, file); if this change of numbers is meant, write the file again with: {command}"
    )


def test_no_file_is_left_without_a_method() -> None:
    assert {file.stem for file in GOLDEN.iterdir()} == set(METHODS)
