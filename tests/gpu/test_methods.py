"""Every method on CUDA: a step gives the CPU's loss and gradients, and after the first nothing waits for
the device.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from builders import at, built, enough, given

from training.cohort import Cohort
from training.engine import Engine
from training.losses import LossGraph
from training.methods import METHODS
from training.parts import Nodes
from training.precision import exact_fp32
from training.recorded import Recorded

pytestmark = pytest.mark.gpu
CLASSES, SIZE, BATCH = 10, 32, 32


def made(method: str) -> tuple[Cohort, LossGraph]:
    row = METHODS[method]
    torch.manual_seed(0)
    cohort = built(method, ["resnet8"] * enough(method, row.peers), CLASSES, SIZE, row.options())
    return cohort, row.graph(cohort, row.options())


def begun(cohort: Cohort, device: str, dtype: torch.dtype) -> Nodes:
    random = torch.Generator().manual_seed(1)
    images = torch.randn(BATCH, 3, SIZE, SIZE, generator=random).to(device, dtype)
    names = given(cohort, images, (torch.arange(BATCH) % CLASSES).to(device))
    return names | {"index": names["index"].to(device)}


def stepped(method: str, device: str) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Parts of the loss and gradients of one step in float64."""
    cohort, graph = made(method)
    cohort.double().to(device).train()
    ramps = {ramp: factor.to(device) for ramp, factor in at(graph, 0.5).items()}
    parts = Engine(cohort, graph, device, torch.float32, 0).step(begun(cohort, device, torch.float64), ramps)
    gradients = {name: p.grad.cpu() for name, p in cohort.named_parameters() if p.grad is not None}
    return {name: float(part) for name, part in parts.items()}, gradients


@contextmanager
def no_waiting() -> Iterator[None]:
    """Whatever makes the host wait for the device raises."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("method", METHODS)
def test_a_step_gives_the_cpus_loss_and_gradients(method: str) -> None:
    if any(part.draws for part in made(method)[0].parts.values()):
        pytest.skip("it draws, and the two devices draw different numbers")
    (here, ours), (there, theirs) = stepped(method, "cpu"), stepped(method, "cuda")
    assert here == pytest.approx(there, rel=1e-9)
    assert set(ours) == set(theirs)
    for name, gradient in ours.items():
        assert (theirs[name] - gradient).abs().max() <= 1e-8 * gradient.abs().max().clamp_min(1e-3), name


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("method", METHODS)
def test_no_step_waits_for_the_device(method: str, precision: torch.dtype) -> None:
    exact_fp32("cuda")
    cohort, graph = made(method)
    cohort.cuda().train()
    ramps, names = graph.ramps(0, 2, "cuda"), begun(cohort, "cuda", torch.float32)
    engine = Engine(cohort, graph, "cuda", precision, 0)
    optimizer = torch.optim.SGD(
        cohort.parameter_groups(5e-4), lr=0.01, momentum=0.9, nesterov=True, foreach=True
    )
    losses = []

    def step(number: int) -> None:
        optimizer.zero_grad(set_to_none=True)
        losses.append(torch.stack(list(engine.step(names, ramps).values())).sum())
        optimizer.step()
        cohort.after_step(number)

    step(0)  # sets up libraries and the optimiser's state
    torch.cuda.synchronize()
    with no_waiting():
        for number in (1, 2, 3):
            step(number)
    assert torch.stack(losses).isfinite().all()


OPTIMIZERS = {"sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True), "adamw": torch.optim.AdamW}


def losses_of(method: str, precision: torch.dtype, optimizer: str, recorded: bool) -> list[float]:
    """Of ten steps at falling rates."""
    exact_fp32("cuda")
    cohort, graph = made(method)
    cohort.cuda().train()
    ramps, names = graph.ramps(0, 2, "cuda"), begun(cohort, "cuda", torch.float32)
    engine = Engine(cohort, graph, "cuda", precision, 0)
    rule = OPTIMIZERS[optimizer](cohort.parameter_groups(5e-4), lr=0.01, fused=True)
    record = Recorded(engine, rule) if recorded else None
    sums = []
    for number in range(10):
        for group in rule.param_groups:
            group["lr"] = (0.01 if optimizer == "sgd" else 0.001) / (1 + number)
        if record:
            parts = record(names, ramps)
        else:
            rule.zero_grad(set_to_none=True)
            parts = engine.step(names, ramps)
            rule.step()
        cohort.after_step(number)
        sums.append(torch.stack(list(parts.values())).sum().double())
    return torch.stack(sums).tolist()


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("method", [method for method in METHODS if method != "crd"])
def test_a_recorded_step_is_the_plain_one(method: str, precision: torch.dtype) -> None:
    """The same losses, but for the order in which a GPU sums."""
    plain, recorded = (losses_of(method, precision, "sgd", how) for how in (False, True))
    assert recorded == pytest.approx(plain, rel=1e-3 if precision == torch.float32 else 2e-2)


def test_a_recorded_step_of_adamw_is_the_plain_one() -> None:
    plain, recorded = (losses_of("lfmkd", torch.float32, "adamw", how) for how in (False, True))
    assert recorded == pytest.approx(plain, rel=1e-3)
