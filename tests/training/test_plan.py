"""Pieces of a step in several threads: all networks, all orders, and what fails."""

from __future__ import annotations

import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest
import torch
from builders import at, built, given
from torch import nn

from lfdeploy.models import ARCHITECTURES, create
from lfdeploy.models.fusion import FusedHead
from training.cohort import Cohort
from training.engine import Engine
from training.losses import LossGraph
from training.methods import METHODS
from training.methods.method import Given
from training.parts import Auxiliary, FusedPart, Nodes, Peer, Trunk
from training.parts.part import begins_in_place, halves
from training.plan import Plan, in_order, plan_of, run_all, ways


def test_pieces_are_those_of_the_parts() -> None:
    """A peer of 32 layers in seven pieces, the two heads behind it in their own; names fit together."""
    row = METHODS["lfmkd"]
    cohort = built("lfmkd", ["resnet32"] * 2, 10, 32, row.options())
    plan = plan_of(cohort.waves, ["view0", "labels"])
    counts = {part.name: len(part.links()) for part in cohort.parts.values()}
    assert counts == {"peer0": 7, "peer1": 7, "aux0": 4, "aux1": 3, "fused": 1, "ensemble": 1}
    assert len(plan.links) == sum(counts.values()) - 1  # the loss alone reads the mean
    assert [link.gives[0] for link in plan.links[:3]] == ["peer0.within0", "peer0.map0", "peer0.within1"]
    # the end of the first stages is read by the next one, and by the head of both
    assert [plan.links[n].gives[0] for n in plan.readers["peer0.map0"]] == ["aux0.map", "peer0.within1"]
    whole = plan_of(cohort.waves, ["view0"], whole=True)
    assert [link.work for link in whole.links] == [part for wave in cohort.waves for part in wave]


def test_a_part_without_its_tensors_is_left_out_and_so_is_what_reads_it() -> None:
    row = METHODS["lfmkd"]
    cohort = built("lfmkd", ["resnet8"] * 2, 10, 16, row.options())
    assert not plan_of(cohort.waves, ["labels"]).links


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("method", ["lfmkd", "independent", "dml"])
def test_a_trunk_that_does_not_learn_is_computed_once(
    method: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every picture, in a step and in evaluation; by pieces of a batch where there are threads."""
    row, counts = METHODS[method], []
    torch.manual_seed(0)
    options, peers = row.options(), [create("resnet8", 10) for _ in range(2)]
    cohort = row.build(Given(peers, 10, 16, options, frozen=2))
    forward = Trunk.forward

    def counted(self: Trunk, x: torch.Tensor) -> Nodes:
        counts.append(len(x))
        return forward(self, x)

    monkeypatch.setattr(Trunk, "forward", counted)
    engine = Engine(cohort.train(), row.graph(cohort, options), "cpu", torch.float32, threads)
    try:
        engine.step(given(cohort, torch.randn(8, 3, 16, 16), torch.arange(8)), at(engine.graph, 0.5))
        assert sum(counts) == 8
        cohort.eval()
        engine.forward(torch.randn(6, 3, 16, 16))
        assert sum(counts) == 14
    finally:
        engine.close()


def test_a_part_may_read_a_tensor_twice() -> None:
    torch.manual_seed(0)
    peer = Peer("peer0", create("resnet8", 10))
    twice = FusedPart("fused", ["peer0.map2", "peer0.map2"], FusedHead([64, 64], 10))
    cohort = Cohort([peer, twice]).train()
    graph, grads = LossGraph({"peer0": 1.0, "fused": 1.0}, ()), []
    for whole in (True, False):
        cohort.zero_grad()
        engine = Engine(cohort, graph, "cpu", torch.float32, 0, whole=whole)
        images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        engine.step(given(cohort, images, torch.arange(4)), at(graph, 1.0))
        grads.append(torch.cat([p.grad.flatten() for p in cohort.parameters() if p.grad is not None]))
    assert torch.allclose(*grads, rtol=1e-4, atol=1e-6)


class _Overwrites(nn.Module):
    def __init__(self, first: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, nn.BatchNorm2d(4)


def test_nothing_is_cut_before_a_layer_that_writes_over_what_it_reads() -> None:
    """The cut would hand the same memory to another reader, whose numbers would silently be others."""
    writes, keeps = nn.ReLU(inplace=True), nn.ReLU()
    conv = nn.Conv2d(4, 4, 1)
    assert begins_in_place(writes) and begins_in_place(nn.Sequential(writes, conv))
    assert begins_in_place(_Overwrites(writes))
    assert begins_in_place(nn.Sequential(nn.Identity(), writes))
    assert not begins_in_place(keeps) and not begins_in_place(nn.Sequential(conv, writes))
    assert [len(piece) for piece in halves(nn.Sequential(conv, writes, conv, writes))] == [2, 2]
    assert [len(piece) for piece in halves(nn.Sequential(conv, conv, writes, conv))] == [4]
    assert [len(piece) for piece in halves(nn.Sequential(conv, conv, conv))] == [3]
    network = create("resnet8", 10)
    assert len(Peer("peer0", network).links()) == 4
    network.stages[1].insert(0, writes)
    assert len(Peer("peer0", network).links()) == 1
    gap = Auxiliary("aux0", ["peer0.map0"], nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    assert [link.gives for link in gap.links()] == [("aux0.map", "aux0.in0"), ("aux0",)]


def some_plan(count: int, seed: int) -> Plan:
    """Pieces that read any of those before them."""
    draw, plan = random.Random(seed), Plan()
    for number in range(count):
        before = {n for n in range(number) if draw.random() < 0.2}
        plan.add(None, before)  # type: ignore[arg-type]
        plan.forward[number] = draw.random()
    return plan


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("seed", range(4))
def test_every_piece_comes_once_and_after_those_that_it_waits_for(threads: int, seed: int) -> None:
    plan = some_plan(40, seed)
    for waits_for, follows, backwards in (
        (plan.before, plan.after, False),
        (plan.after, plan.before, True),
    ):
        way = ways(plan.forward, follows, backwards)
        done: list[int] = []

        def work(number: int, done: list[int] = done, waits_for: list[set[int]] = waits_for) -> None:
            assert waits_for[number] <= set(done)
            done.append(number)

        with ThreadPoolExecutor(threads) as pool:
            run_all(pool, threads, nullcontext, work, waits_for, follows, way)
        assert sorted(done) == list(range(40))
        plain = list(in_order(waits_for))
        assert all(waits_for[number] <= set(plain[:place]) for place, number in enumerate(plain))
        if threads == 1:  # among those that are ready the longest way goes first
            for place, number in enumerate(done):
                ready = [n for n in done[place:] if waits_for[n] <= set(done[:place])]
                assert way[number] == max(way[n] for n in ready)


def test_the_way_of_a_piece_is_its_longest_chain() -> None:
    plan = Plan()
    for before in (set(), {0}, {0}, {1, 2}):
        plan.add(None, before)  # type: ignore[arg-type]
    assert ways([1.0, 2.0, 5.0, 1.0], plan.after) == [7.0, 3.0, 6.0, 1.0]
    assert ways([1.0, 2.0, 5.0, 1.0], plan.before, backwards=True) == [1.0, 3.0, 6.0, 7.0]


@pytest.mark.parametrize("threads", [1, 3])
def test_a_piece_that_fails_ends_all_and_says_so(threads: int) -> None:
    plan, done = some_plan(40, 0), []

    def work(number: int) -> None:
        if number == 7:
            raise RuntimeError("no memory")
        done.append(number)

    with ThreadPoolExecutor(threads) as pool:
        with pytest.raises(RuntimeError, match="no memory"):
            run_all(pool, threads, nullcontext, work, plan.before, plan.after, ways(plan.forward, plan.after))
        assert len(done) < 40
        done.clear()
        again = ways(plan.forward, plan.after)
        run_all(pool, threads, nullcontext, done.append, plan.before, plan.after, again)
        assert len(done) == 40  # and the threads take the next step


def test_a_ctrl_c_begins_nothing_more() -> None:
    """It is raised when nothing is under way: what ran on would add to gradients behind the caller's back."""
    plan, done = some_plan(60, 1), []
    main, first = threading.get_ident(), threading.Event()

    def work(number: int) -> None:
        if not first.is_set():
            first.set()
            signal.pthread_kill(main, signal.SIGINT)
        sum(range(200_000))  # it takes a while
        done.append(number)

    with ThreadPoolExecutor(2) as pool:
        with pytest.raises(KeyboardInterrupt):
            run_all(pool, 2, nullcontext, work, plan.before, plan.after, ways(plan.forward, plan.after))
        count = len(done)
        pool.submit(lambda: None).result()
    assert len(done) == count < 60


#: One of each family, and all others
FAST = ["mobilenet_v3_small", "resnet20", "vgg8_cifar"]
SLOW = [
    "convnext_tiny", "densenet121", "densenet40_12_bc", "efficientnet_b0", "efficientnet_lite0", "mnasnet0_5",
    "mobilenet_v2", "mobilenet_v2_cifar", "regnet_x_400mf", "resnet110_bottleneck", "resnet18",
    "shufflenet_v2_cifar", "shufflenet_v2_x0_5", "vgg8_bn_cifar", "wrn16_2",
]  # fmt: skip
WIDE = sorted(set(ARCHITECTURES) - {*FAST, *SLOW})


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    "arch",
    FAST
    + [pytest.param(name, marks=pytest.mark.slow) for name in SLOW]
    + [pytest.param(name, marks=pytest.mark.wide) for name in WIDE],
)
def test_every_network_in_pieces_is_the_network(arch: str) -> None:
    """Losses and gradients of one step in pieces, by two threads and by none, and as one graph."""
    row, found = METHODS["lfmkd"], []
    size = 64
    images = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0))
    for threads, whole in ((0, True), (0, False), (2, False)):
        torch.manual_seed(0)
        options = row.options()
        cohort = built("lfmkd", [arch] * 2, 10, size, options).train()
        for module in cohort.modules():
            if isinstance(module, nn.Dropout) or type(module).__name__ == "StochasticDepth":
                module.p = 0.0
        engine = Engine(cohort, row.graph(cohort, options), "cpu", torch.float32, threads, whole=whole)
        try:
            parts = engine.step(given(cohort, images, torch.arange(4)), at(engine.graph, 0.3))
        finally:
            engine.close()
        grads = {name: p.grad for name, p in cohort.named_parameters() if p.grad is not None}
        found.append((parts, grads))
    (parts, grads), (serial, its), (threaded, theirs) = found
    assert list(grads) == list(its) == list(theirs)
    for name, value in parts.items():
        assert torch.equal(serial[name], threaded[name])
        assert serial[name].item() == pytest.approx(value.item(), rel=1e-5)
    for name, gradient in grads.items():
        assert torch.equal(its[name], theirs[name]), name
        spread = (its[name] - gradient).abs().max().item()
        assert spread <= 1e-4 * gradient.abs().max().item() + 1e-6, (name, spread)
