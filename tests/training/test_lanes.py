"""Which pieces of a step share a stream on a GPU."""

from __future__ import annotations

import pytest
import torch
from builders import at, built, enough, given

from training.cohort import Cohort
from training.engine import Engine
from training.lanes import lanes_of
from training.methods import METHODS
from training.plan import Plan, plan_of


def cohort_of(method: str, arch: str = "resnet8") -> Cohort:
    torch.manual_seed(0)
    return built(method, [arch] * enough(method), 10, 16, METHODS[method].options())


def plan_for(cohort: Cohort) -> Plan:
    images = torch.randn(8, 3, 16, 16)
    return plan_of(cohort.waves, given(cohort, images, torch.arange(8) % 10))


def test_peers_and_what_reads_their_middle_go_on_side_by_side() -> None:
    cohort = cohort_of("lfmkd", "resnet32")
    plan = plan_for(cohort)
    lanes = dict(zip((link.gives[0] for link in plan.links), lanes_of(plan), strict=True))
    of_peers = [
        {lane for name, lane in lanes.items() if name.startswith(peer)} for peer in ("peer0", "peer1")
    ]
    assert of_peers == [{0}, {1}]
    heads = {name.split(".")[0]: lane for name, lane in lanes.items() if not name.startswith("peer")}
    assert sorted(heads.values()) == [2, 3, 4]  # each auxiliary teacher, and the fusion


@pytest.mark.parametrize("method", METHODS)
def test_what_follows_in_a_lane_reads_what_is_before(method: str) -> None:
    """So that a lane holds up nobody: its pieces could not have begun earlier."""
    plan = plan_for(cohort_of(method))
    last: dict[int, int] = {}
    for number, lane in enumerate(lanes_of(plan)):
        assert lane <= len(last)
        assert lane not in last or last[lane] in plan.before[number]
        last[lane] = number


@pytest.mark.parametrize("method", METHODS)
def test_pieces_one_after_the_other_are_the_parts(method: str) -> None:
    """As they run where there are no streams: the same loss and gradients to the bit."""
    found = []
    for abreast in (False, True):
        cohort = cohort_of(method).train()
        graph = METHODS[method].graph(cohort, METHODS[method].options())
        engine = Engine(cohort, graph, "cpu", torch.float32, 0, whole=True)
        engine.abreast = abreast
        images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
        torch.manual_seed(2)
        parts = engine.step(given(cohort, images, torch.arange(8) % 10), at(graph, 0.5))
        found.append((parts, [p.grad for p in cohort.parameters() if p.grad is not None]))
    assert found[0][0].keys() == found[1][0].keys()
    assert all(torch.equal(found[0][0][name], value) for name, value in found[1][0].items())
    assert len(found[0][1]) == len(found[1][1])
    assert all(torch.equal(one, other) for one, other in zip(found[0][1], found[1][1], strict=True))
