"""The step that CUDA records, as it runs elsewhere: the plain step's numbers, nothing read by the host."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import at, built, enough, given
from torch.utils._python_dispatch import TorchDispatchMode

import training.setup
from lfdeploy.config import TrainConfig
from lfdeploy.errors import UsageError
from lfdeploy.run import Run
from training import train
from training.compiled import blocks_of
from training.engine import Engine
from training.methods import METHODS
from training.recorded import Recorded, check_recorded

SIZE, CLASSES, BATCH, STEPS = 16, 10, 12, 3
OPTIMIZERS = {
    "sgd": lambda groups, **how: torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True, **how),
    "adamw": lambda groups, **how: torch.optim.AdamW(groups, lr=0.1, **how),
}


def engine_of(method: str, dtype: torch.dtype = torch.float64) -> Engine:
    torch.manual_seed(0)
    row = METHODS[method]
    options = row.options()
    cohort = built(method, ["resnet8"] * enough(method), CLASSES, SIZE, options).to(dtype).train()
    return Engine(cohort, row.graph(cohort, options), "cpu", torch.float32, 0)


def batches(engine: Engine) -> list[Any]:
    draw = torch.Generator().manual_seed(1)
    made = []
    for _ in range(STEPS):
        images = torch.randn(BATCH, 3, SIZE, SIZE, generator=draw).double()
        made.append(given(engine.cohort, images, torch.randint(0, CLASSES, (BATCH,), generator=draw)))
    return made


def drawn(method: str) -> bool:
    return any(part.draws for part in engine_of(method).cohort.parts.values())


DRAWING = ("crd",)  # not recorded
FAST = ("lfmkd", "kd")
RECORDED = [
    method if method in FAST else pytest.param(method, marks=pytest.mark.slow)
    for method in METHODS
    if method not in DRAWING
]


def test_what_draws_is_known() -> None:
    assert tuple(method for method in METHODS if drawn(method)) == DRAWING


@pytest.mark.parametrize("method", RECORDED)
def test_it_is_the_plain_step(method: str) -> None:
    plain_and_recorded(method, "sgd")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lfmkd", "pcl"])
def test_it_is_the_plain_step_of_adamw_too(method: str) -> None:
    plain_and_recorded(method, "adamw")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.wide)])
def test_it_is_the_plain_step_compiled_too(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the compiler but its last stage, which takes a minute on a CPU; or that too."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    plain_and_recorded("ffl", "sgd", compiled=True)


def plain_and_recorded(method: str, optimizer: str, compiled: bool = False) -> None:
    """Weights and statistics after three steps at three rates and ramps, and what is reported of each.

    Equal but for the rates, which fused optimisers take in fp32.
    """
    plain, recorded = engine_of(method), engine_of(method)
    build = OPTIMIZERS[optimizer]
    one = build(plain.cohort.parameter_groups(5e-4), foreach=True)
    other = build(recorded.cohort.parameter_groups(5e-4), fused=True)
    step = Recorded(recorded, other, clip_norm=1.0, compiled=compiled)
    addresses = set()
    for number, nodes in enumerate(batches(plain)):
        ramps = at(plain.graph, 0.3 * number)
        for group in (*one.param_groups, *other.param_groups):
            group["lr"] = 0.05 / (1 + number)
        one.zero_grad(set_to_none=True)
        parts = plain.step(nodes, ramps)
        torch.nn.utils.clip_grad_norm_(plain.cohort.parameters(), 1.0)
        one.step()
        found = step(nodes, at(recorded.graph, 0.3 * number))
        addresses.add(tuple(x.data_ptr() for x in step.given.values()))
        for name, part in parts.items():
            torch.testing.assert_close(found[name], part, rtol=1e-6, atol=1e-9)
        for name, value in plain.seen.items():
            torch.testing.assert_close(recorded.seen[name], value, rtol=1e-6, atol=1e-9)
        assert [group["lr"] for group in other.param_groups] == [0.05 / (1 + number)] * len(
            other.param_groups
        )
    assert len(addresses) == 1
    for name, tensor in plain.cohort.state_dict().items():
        torch.testing.assert_close(recorded.cohort.state_dict()[name], tensor, rtol=1e-4, atol=1e-6)


def test_it_begins_again_where_other_parts_learn() -> None:
    engine = engine_of("ffl")
    step = Recorded(engine, OPTIMIZERS["sgd"](engine.cohort.parameter_groups(0.0), fused=True))
    nodes, ramps = batches(engine)[0], at(engine.graph, 1.0)
    step(nodes, ramps)
    first = step.given
    step(nodes, ramps)
    assert step.given is first
    next(engine.cohort.parameters()).requires_grad_(False)
    step(nodes, ramps)
    assert step.given is not first


class Reads(TorchDispatchMode):
    """Counts what would make the host wait for a GPU: numbers that are read, and results of unknown size."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(function.overloadpacket).removeprefix("aten.")
        self.count += 1
        if name in ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "is_nonzero", "equal"):
            self.names.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", RECORDED)
def test_the_host_reads_nothing(method: str) -> None:
    """Forward, backward, clipping and the optimiser."""
    engine = engine_of(method)
    step = Recorded(engine, OPTIMIZERS["sgd"](engine.cohort.parameter_groups(5e-4), fused=True), 1.0)
    nodes, ramps = batches(engine)[0], at(engine.graph, 1.0)
    step(nodes, ramps)
    with Reads() as reads:
        step._step()
    assert reads.count > 200
    assert reads.names == []


def rows_of(run: Run) -> list[dict[str, Any]]:
    """Its epochs."""
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


def test_a_training_with_it_is_the_same_training(
    coloured_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two epochs, an average of the weights included."""
    config = TrainConfig(
        data=str(coloured_npz), image_size=16, arch="resnet8", epochs=2, batch_size=16, device="cpu",
        precision="fp32", ema=0.9, threads="shared",
    )  # fmt: skip
    with monkeypatch.context() as patch:  # a CPU's pieces sum in another order, and these steps are chaotic
        patch.setattr(training.setup, "Engine", partial(Engine, whole=True))
        plain = train(config, "plain", tmp_path)
    monkeypatch.setattr(training.setup, "check_recorded", lambda *given: None)
    recorded = train(replace(config, graph=True), "recorded", tmp_path)
    for one, other in zip(*map(rows_of, (plain, recorded)), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert other["parts"] == pytest.approx(one["parts"], rel=1e-4)
        assert (other["train"].keys(), other["val"].keys()) == (one["train"].keys(), one["val"].keys())
    counters = [
        {name: t for name, t in run.tensors().items() if name.endswith("num_batches_tracked")}
        for run in (plain, recorded)
    ]
    assert counters[0] == counters[1]


SETTINGS: dict[str, dict[str, Any]] = {
    "mixtures and holes": {"mixup": 0.2, "cutmix": 1.0, "erasing": 0.5, "label_smoothing": 0.1},
    "rare classes": {"balance": "weights", "views": "own"},
    "adamw": {"optimizer": "adamw", "lr": 1e-3, "clip_norm": 1.0, "decay_norms": False},
    "photos": {"augment": "photo", "policy": "trivial"},
    "trained weights": {"weights": "plain", "freeze": "1", "recipe": "cifar"},
    "finetune": {"weights": "plain", "augment": "photo", "train_size": 12},
    "attention": {"option": (("attn", "cbam"), ("knowledge", "both"))},
}


@pytest.mark.slow
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_whatever_is_asked_for_is_recorded_too(
    settings: dict[str, Any], coloured_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two epochs of two peers have the losses that they have without a record, but for the order of sums."""
    config = TrainConfig(
        data=str(coloured_npz), image_size=16, arch="resnet8", epochs=2, steps=4, batch_size=16, device="cpu",
        precision="fp32", threads="shared",
    )  # fmt: skip
    monkeypatch.setattr(training.setup, "check_recorded", lambda *given: None)
    monkeypatch.setattr(training.setup, "Engine", partial(Engine, whole=True))
    begun = train(config, "plain", tmp_path)
    settings = settings | ({"weights": str(begun.path)} if "weights" in settings else {})
    runs = [train(replace(config, graph=graph, **settings), str(graph), tmp_path) for graph in (False, True)]
    for one, other in zip(*map(rows_of, runs), strict=True):
        assert other["parts"] == pytest.approx(one["parts"], rel=1e-3, abs=1e-5)
        assert other["train"]["cross_entropy"] == pytest.approx(one["train"]["cross_entropy"], rel=1e-3)


def test_a_time_is_planned_with_the_recorded_step(
    coloured_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is measured leaves no trace: the training is that of the epochs and steps that fit."""
    monkeypatch.setattr(training.setup, "check_recorded", lambda *given: None)
    monkeypatch.setattr(training.setup, "fitting", lambda *given: (1, 5))
    steps: list[Recorded] = []
    called = Recorded.__call__

    def counted(self: Recorded, *given: Any) -> Any:
        steps.append(self)
        return called(self, *given)

    monkeypatch.setattr(Recorded, "__call__", counted)
    config = TrainConfig(
        data=str(coloured_npz), image_size=16, arch="resnet8", batch_size=16, device="cpu",
        precision="fp32", graph=True, threads="shared",
    )  # fmt: skip
    timed = train(replace(config, time="1h"), "timed", tmp_path).tensors()
    assert [steps.count(record) for record in dict.fromkeys(steps)] == [4, 1, 5]
    plain = train(replace(config, epochs=1, steps=5), "plain", tmp_path).tensors()
    assert all(torch.equal(value, plain[name]) for name, value in timed.items())


@pytest.mark.parametrize(
    ("settings", "word"), [({}, "CPU"), ({"accumulate": 2}, "accumulate"), ({"method": "crd"}, "draws")]
)
def test_where_it_cannot_be_is_one_line(settings: dict[str, Any], word: str) -> None:
    config = TrainConfig(graph=True, **settings)
    device = "cuda" if settings else "cpu"
    with pytest.raises(UsageError, match=word):
        check_recorded(config, engine_of(config.method).cohort, torch.float32, device, 1)
    check_recorded(replace(config, graph=False), engine_of("ffl").cohort, torch.float32, "cpu", 1)


@pytest.mark.parametrize(
    ("device", "side", "graph", "said"),
    [
        ("cuda", 32, False, True),
        ("cuda", 224, False, False),
        ("cuda", 32, True, False),
        ("cpu", 32, False, False),
    ],
)
def test_who_could_have_it_is_told(
    device: str, side: int, graph: bool, said: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    check_recorded(TrainConfig(graph=graph), engine_of("ffl").cohort, torch.float32, device, 1, side)
    assert ("With --graph" in capsys.readouterr().err) == said


def test_compiling_is_for_a_record_and_needs_blocks() -> None:
    with pytest.raises(UsageError, match="add --graph"):
        TrainConfig(compile=True)
    cohort = built("independent", ["vgg8_cifar"] * 2, CLASSES, SIZE, METHODS["independent"].options())
    config = TrainConfig(graph=True, compile=True, method="independent")
    with pytest.raises(UsageError, match="Drop --compile"):
        check_recorded(config, cohort, torch.float32, "cuda", 1)


def test_blocks_are_what_repeats_and_each_comes_once() -> None:
    """Of two networks, the heads that go on like them, and three fusions."""
    cohort = built("lfmkd", ["resnet32"] * 2, 10, 32, METHODS["lfmkd"].options())
    kinds = Counter(type(block).__name__ for block in blocks_of(cohort))
    every = sum(type(module).__name__ == "BasicBlock" for module in cohort.modules())
    assert kinds == {"BasicBlock": every, "Sequential": 2 + 3}
    assert every > 2 * 15
    inside = [id(module) for block in blocks_of(cohort) for module in block.modules()]
    assert len(inside) == len(set(inside))
