"""What is known of every method beforehand: what must vanish, what must not change, and some numbers."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import at, built, enough, given, parts_of
from torch import Tensor

from lfdeploy.config import TrainConfig
from lfdeploy.models import create
from lfdeploy.models.deploy import build_network
from training import train
from training.cohort import Cohort
from training.engine import Engine
from training.losses import LossGraph
from training.methods import METHODS
from training.methods.kdcl import General
from training.parts import Copy

CLASSES, SIZE, COUNT = 10, 16, 8
LABELS = torch.arange(COUNT) % CLASSES
WITHOUT_EDGES = {"independent", "dualnet"}
ELSEWHERE = {"lfmkd", "ffl"}  # whose gradients without ramp stand in test_losses
PRIVATE = ["lfmkd", "ffl", "dml", "codistillation", "kdcl", "dualnet", "dcm", "pcl", "independent"]
SYMMETRIC: dict[str, dict[str, object]] = {
    **{name: {} for name in ("dml", "one", "cl", "kdcl", "dualnet", "codistillation")},
    "lfmkd": {"taps": "none", "fuse": "sum"},  # FFL without fusion weights
}
#: The subject, and methods that draw, or carry something of their own from step to step.
CARRYING: dict[str, dict[str, object]] = {
    **{name: {} for name in ("okddip", "pcl", "crd")},
    "lfmkd": {"aux_head": "gap"},
    "codistillation": {"every": 5},
}


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def pictures(count: int = COUNT, seed: int = 1) -> Tensor:
    return draw(count, 3, SIZE, SIZE, seed=seed)


def made(
    method: str, peers: int = 0, seed: int = 0, classes: int = CLASSES, **options: object
) -> tuple[Cohort, LossGraph]:
    """A cohort in float64 and its loss."""
    torch.manual_seed(seed)
    chosen = METHODS[method].options(**options)
    cohort = built(method, ["resnet8"] * (peers or enough(method)), classes, SIZE, chosen).double()
    return cohort, METHODS[method].graph(cohort, chosen)


def gradients(cohort: Cohort, parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of all parameters; zeros where the loss does not reach."""
    cohort.zero_grad(set_to_none=True)
    torch.stack(list(parts.values())).sum().backward()
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in cohort.named_parameters()
    }


def seen(cohort: Cohort) -> Cohort:
    """In eval mode, with statistics of its own in every BatchNorm."""
    with torch.no_grad():
        for seed in range(3):
            images = 2 * pictures(seed=seed + 10) + 0.5
            cohort.train().see(images.to(next(cohort.parameters()).dtype))
    return cohort.eval()


# ---------------------------------------------------------------- what must vanish


@pytest.mark.parametrize("method", sorted(set(METHODS) - WITHOUT_EDGES - ELSEWHERE))
def test_edges_of_no_weight_are_logged_and_change_no_gradient(method: str) -> None:
    cohort, graph = made(method)
    state = {name: value.clone() for name, value in cohort.state_dict().items()}
    found = []
    for factor, each in ((0.0, graph), (0.0, LossGraph(graph.labels)), (1.0, graph)):
        cohort.load_state_dict(state)
        torch.manual_seed(7)  # for parts that draw
        parts = parts_of(each, cohort, pictures(), LABELS, factor)
        logged = {edge.part: parts[edge.part].item() for edge in each.edges}
        assert all((value == 0) == (factor == 0) for value in logged.values()), logged
        found.append(gradients(cohort, parts))
    silent, labels_alone, full = found
    for name, gradient in labels_alone.items():
        assert torch.equal(silent[name], gradient), name
    assert any(not torch.equal(full[name], gradient) for name, gradient in labels_alone.items())


@pytest.mark.parametrize("peers", [1, 2, 3])
def test_independent_peers_are_to_the_bit_networks_that_train_alone(peers: int) -> None:
    cohort, graph = made("independent", peers)
    found = gradients(cohort, parts_of(graph, cohort, pictures(), LABELS))
    torch.manual_seed(0)
    for index in range(peers):
        network = create("resnet8", CLASSES).double()
        F.cross_entropy(network(pictures()), LABELS).backward()
        for name, parameter in network.named_parameters():
            assert torch.equal(found[f"peer{index}.network.{name}"], parameter.grad), (index, name)


def test_dml_of_one_peer_is_an_independent_network() -> None:
    """The sum over the other peers is empty, whatever it is divided by."""
    results = []
    for method in ("dml", "independent"):
        cohort, graph = made(method, peers=1)
        parts = parts_of(graph, cohort, pictures(), LABELS)
        results.append((parts, gradients(cohort, parts)))
    (parts, found), (its_parts, its_found) = results
    assert parts == its_parts
    assert list(found) == list(its_found)
    assert all(torch.equal(found[name], gradient) for name, gradient in its_found.items())


# ---------------------------------------------------------------- symmetry and separation


def swapped(cohort: Cohort, other: Cohort, order: list[int]) -> Cohort:
    """``other`` with the weights of ``cohort``: its peer ``order[n]`` is peer n, and gates follow."""
    names = {f"peer{old}": f"peer{new}" for new, old in enumerate(order)}
    state = {}
    for name, tensor in cohort.state_dict().items():
        gated = name.startswith("gate.") and tensor.ndim > 0
        state[re.sub(r"peer\d", lambda found: names[found[0]], name)] = tensor[order] if gated else tensor
    other.load_state_dict(state)
    return other


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("method", SYMMETRIC)
def test_the_order_of_peers_changes_only_their_names(method: str, training: bool) -> None:
    options, order = SYMMETRIC[method], [2, 0, 1]
    cohort, graph = made(method, peers=3, **options)
    other, _ = made(method, peers=3, seed=99, **options)
    swapped(seen(cohort), other, order)
    nodes, losses = [], []
    for each in (cohort, other):
        nodes.append({name: z.detach() for name, z in each.eval().see(pictures()).items()})
        losses.append(sum(parts_of(graph, each.train(training), pictures(), LABELS).values()).item())
    assert losses[1] == pytest.approx(losses[0], abs=1e-10)
    for new, old in enumerate(order):
        assert torch.equal(nodes[1][f"peer{new}"], nodes[0][f"peer{old}"])
        assert not torch.equal(nodes[1][f"peer{new}"], nodes[0][f"peer{new}"])
    for name in {"ensemble", "fused", "gate"} & set(nodes[0]):
        assert (nodes[1][name] - nodes[0][name]).abs().max() < 1e-10, name


def test_the_gate_of_one_belongs_to_the_order_of_its_branches() -> None:
    """Branches swapped without their rows of the gate are another loss."""
    cohort, graph = made("one", peers=3)
    other = swapped(cohort, made("one", peers=3)[0], [2, 0, 1])
    other.parts["gate"].load_state_dict(cohort.parts["gate"].state_dict())
    before, after = (
        sum(parts_of(graph, each, pictures(), LABELS).values()).item() for each in (cohort, other)
    )
    assert abs(after - before) > 1e-6


@pytest.mark.parametrize("method", PRIVATE)
def test_no_weight_of_a_private_peer_reaches_another(method: str) -> None:
    """All of peer 1 is another network, from the stem on: the others answer to the bit as before."""
    cohort, _ = made(method, peers=3)
    seen(cohort)
    before = cohort.see(pictures())
    with torch.no_grad():
        for tensor in cohort.networks[1].state_dict().values():
            if tensor.is_floating_point():
                tensor.mul_(1.5).add_(0.1)
    after = cohort.see(pictures())
    for peer in ("peer0", "peer2"):
        assert torch.equal(after[peer], before[peer])
    for name in ("peer1", "ensemble"):
        assert not torch.equal(after[name], before[name])


@pytest.mark.parametrize("method", ["kdcl", "pcl"])
def test_no_view_of_a_peer_reaches_another(method: str) -> None:
    cohort, _ = made(method, peers=3)
    views = cohort.views_of(pictures())
    assert list(views) == ["view0", "view1", "view2"]
    seen(cohort)
    before, after = cohort(views), cohort(views | {"view1": pictures(seed=2)})
    for peer in ("peer0", "peer2"):
        assert torch.equal(after[peer], before[peer])
    assert not torch.equal(after["peer1"], before["peer1"])


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_network_is_deployed_from_its_own_tensors_alone(method: str) -> None:
    """Other peers, fusions and heads may be gone: a single network answers as it did among them."""
    cohort, _ = made(method)
    seen(cohort.float())
    spec = {"classes": list(range(CLASSES))} | json.loads(json.dumps(cohort.layout.document()))
    images = pictures().float()
    with torch.no_grad():
        inside = cohort.see(images)
        for target, row in cohort.layout.networks.items():
            alone = {name: tensor for name, tensor in cohort.kept().items() if name.startswith(row.weights)}
            assert torch.equal(build_network(target, spec, alone)(images), inside[target]), target


# ---------------------------------------------------------------- numbers


def test_a_cohort_begins_at_chance() -> None:
    """Two peers, their fusion and two auxiliary teachers: 5 ln 100 = 23.0, within a fifth."""
    cohort, graph = made("lfmkd", classes=100)
    parts = parts_of(graph, cohort, pictures(64), torch.arange(64), 0.0)
    total = sum(part.item() for name, part in parts.items() if name.startswith("ce_"))
    assert total == pytest.approx(5 * math.log(100), rel=0.2)


@pytest.mark.slow
def test_the_ramp_stands_still_within_an_epoch(tmp_path: Path) -> None:
    """One picture many times over and a rate that moves nothing: only the ramp makes epochs differ.

    exp(-5 (1 - e / R)^2) by the number e of the epoch (Laine and Aila 2017, section 3), here with R = 3.
    """
    picture = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    arrays = {"classes": np.array(["one", "other"])}
    for split, count in (("train", 24), ("val", 8), ("test", 8)):
        arrays |= {f"{split}_x": np.stack([picture] * count), f"{split}_y": np.arange(count) % 2}
    np.savez(tmp_path / "same.npz", **arrays)
    config = TrainConfig(
        data=str(tmp_path / "same.npz"), arch="resnet8", method="ffl", option=(("ramp", "1"),),
        epochs=3, batch_size=8, lr=1e-30, augment="none", precision="fp32", device="cpu",
    )  # fmt: skip
    lines = (train(config, "same", tmp_path).path / "metrics.jsonl").read_text().splitlines()
    taught = [json.loads(line)["parts"]["kd_fused"] for line in lines]
    factors = [math.exp(-5 * (1 - epoch / 3) ** 2) for epoch in range(3)]
    assert taught == pytest.approx([taught[2] * factor / factors[2] for factor in factors], rel=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_weights_of_general_kdcl_sum_to_one_also_where_some_are_cut_off(seed: int) -> None:
    """Peer 2 is peer 0 with larger errors: by the formula (Guo et al. 2020, eq. 12) it weighs less than 0."""
    part = General("target", ["peer0", "peer1", "peer2"]).double()
    assert abs(part.weights.sum() - 1) < 1e-6  # float32 thirds
    logits = [3 * draw(COUNT, CLASSES, seed=10 * seed + index) for index in range(2)]
    worse = logits[0].clone()
    worse[torch.arange(COUNT), LABELS] -= 2
    nodes = dict(zip(part.reads, [*logits, worse], strict=True))
    part.after_epoch(nodes | {"labels": LABELS})
    assert abs(part.weights.sum() - 1) < 1e-10
    assert part.weights.min() == 0 and part.weights.max() < 1


def test_an_averaged_copy_is_the_running_mean_for_a_thousand_steps() -> None:
    """Decay min(1 - 1/(t + 1), 0.999) for step t from 0 (Wu and Gong 2021): both are 0.999 at t = 999."""
    cohort, _ = made("pcl")
    copy, weight = cohort.parts["ema0"], cohort.networks[0].stem[0].weight
    assert isinstance(copy, Copy)
    own, total = copy.network.stem[0].weight, torch.zeros_like(weight)
    for step in range(1000):
        with torch.no_grad():
            weight.copy_(draw(*weight.shape, seed=step))
            total += weight
        copy.after_step(step)
        assert (own - total / (step + 1)).abs().max() < 1e-10, step
    with torch.no_grad():
        weight.copy_(draw(*weight.shape, seed=1000))
    copy.after_step(1000)
    assert (own - (0.999 * total / 1000 + 0.001 * weight)).abs().max() < 1e-12
    assert (own - (total + weight) / 1001).abs().max() > 1e-7


@pytest.mark.slow
@pytest.mark.parametrize("method", CARRYING)
def test_the_same_seed_gives_the_same_losses_for_twenty_steps(method: str) -> None:
    def losses() -> list[dict[str, float]]:
        cohort, graph = made(method, **CARRYING[method])
        engine = Engine(cohort.float().train(), graph, "cpu", torch.float32, 0)
        optimizer = torch.optim.SGD(cohort.parameter_groups(5e-4), lr=0.05, momentum=0.9, nesterov=True)
        found = []
        for step in range(20):
            optimizer.zero_grad(set_to_none=True)
            images = pictures(4, step).float()[..., :8, :8]
            parts = engine.step(given(cohort, images, LABELS[:4]), at(graph, 0.5))
            optimizer.step()
            cohort.after_step(step)
            found.append({name: part.item() for name, part in parts.items()})
        return found

    first = losses()
    assert all(math.isfinite(value) for parts in first for value in parts.values())
    assert first == losses()
