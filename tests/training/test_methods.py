"""Every method's loss against its formula written out by hand, and what is special about some of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from builders import at, built, enough, given, parts_of
from torch import Tensor

from training.cohort import Cohort
from training.engine import Engine
from training.losses import LossGraph, evaluate_graph
from training.methods import METHODS
from training.methods.kdcl import General, linear, minlogit, naive
from training.parts import Attention, Copy, Memory, Nodes

CLASSES, SIZE, COUNT = 10, 16, 8
W = 0.37  # of the ramp
LABELS = torch.arange(COUNT) % CLASSES


def made(method: str, peers: int = 0, **options: object) -> tuple[Cohort, LossGraph]:
    torch.manual_seed(0)
    row = METHODS[method]
    chosen = row.options(**options)
    cohort = built(method, ["resnet8"] * (peers or enough(method, row.peers)), CLASSES, SIZE, chosen).double()
    return cohort, row.graph(cohort, chosen)


def pictures() -> Tensor:
    return torch.randn(COUNT, 3, SIZE, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def ce(z: Tensor) -> Tensor:
    return -(z - z.logsumexp(1, keepdim=True))[torch.arange(COUNT), LABELS].mean()


def kl(teacher: Tensor, student: Tensor, t: float) -> Tensor:
    p, q = torch.softmax(teacher / t, 1), torch.softmax(student / t, 1)
    return t * t * (p * (p.log() - q.log())).sum(1).mean()


def dml(n: Nodes) -> Tensor:
    ps = [n[f"peer{i}"] for i in range(2)]
    return ce(ps[0]) + ce(ps[1]) + kl(ps[0], ps[1], 1) + kl(ps[1], ps[0], 1)


def cl(n: Nodes) -> Tensor:
    ps = [n[f"peer{i}"] for i in range(4)]
    total = sum(ps)
    return sum(0.5 * ce(z) + 0.5 * kl((total - z) / 3, z, 2) for z in ps)  # type: ignore[return-value]


def codistillation(n: Nodes) -> Tensor:
    return sum(
        (ce(n[a]) + W * kl(n[f"stale_{b}"], n[a], 1) for a, b in (("peer0", "peer1"), ("peer1", "peer0"))),
        torch.tensor(0.0),
    )


def one(n: Nodes) -> Tensor:
    return sum((ce(n[p]) + W * kl(n["gate"], n[p], 3) for p in ("peer0", "peer1", "peer2")), ce(n["gate"]))


def okddip(n: Nodes) -> Tensor:
    aux = ["peer0", "peer1", "peer2"]
    mean = (n["peer0"] + n["peer1"] + n["peer2"]) / 3
    return sum(
        (ce(n[p]) + W * kl(n[f"mix_{p}"], n[p], 3) for p in aux),
        ce(n["leader"]) + W * kl(mean, n["leader"], 3),
    )


def kdcl(n: Nodes) -> Tensor:
    rows = [z - z[torch.arange(COUNT), LABELS][:, None] for z in (n["peer0"], n["peer1"])]
    target = torch.minimum(*rows)
    return sum((ce(z) + kl(target, z, 2) for z in (n["peer0"], n["peer1"])), torch.tensor(0.0))


def dualnet(n: Nodes) -> Tensor:
    return ce(n["fused"]) + 0.3 * (ce(n["peer0"]) + ce(n["peer1"]))


def heads(n: Nodes, peer: str) -> list[Tensor]:
    return [n[peer], n[f"{peer}_aux0"], n[f"{peer}_aux1"]]


def dks(n: Nodes) -> Tensor:
    own = heads(n, "peer0")
    return sum((kl(a, b, 1) for a in own for b in own if a is not b), sum(map(ce, own)))  # type: ignore[arg-type]


def dcm(n: Nodes) -> Tensor:
    one, other = heads(n, "peer0"), heads(n, "peer1")
    across = sum(kl(a, b, 1) + kl(b, a, 1) for a in one for b in other)
    return sum(map(ce, one + other)) + across  # type: ignore[return-value]


def pcl(n: Nodes) -> Tensor:
    total = ce(n["fused"])
    for i in range(3):
        z = n[f"peer{i}"]
        total = (
            total
            + ce(z)
            + W * kl(n["fused"], z, 3)
            + W * sum(kl(n[f"ema{j}"], z, 3) for j in range(3) if j != i) / 2
        )
    return total


def byot(n: Nodes) -> Tensor:
    z, vector = n["peer0"], n["peer0.vector"]
    shallow = [0.7 * ce(a) + 0.3 * kl(z, a, 3) for a in heads(n, "peer0")[1:]]
    return ce(z) + sum(shallow) + sum(0.03 * ((n[f"peer0_fit{i}"] - vector) ** 2).mean() for i in range(2))


def multi_exit(n: Nodes) -> Tensor:
    return ce(n["peer0"]) + sum(ce(a) + kl(n["peer0"], a, 3) for a in heads(n, "peer0")[1:])


def kd(n: Nodes) -> Tensor:
    return 0.1 * ce(n["peer0"]) + 0.9 * kl(n["teacher"], n["peer0"], 4)


def fitnets(n: Nodes) -> Tensor:
    return ce(n["peer0"]) + 100 * ((n["peer0_hint.student"] - n["teacher.map1"]) ** 2).mean()


def attention(x: Tensor) -> Tensor:
    flat = (x**2).mean(1).flatten(1)
    return flat / flat.norm(dim=1, keepdim=True)


def at_(n: Nodes) -> Tensor:
    apart = [
        ((attention(n[f"teacher.map{s}"]) - attention(n[f"peer0.map{s}"])) ** 2).mean() for s in range(3)
    ]
    return ce(n["peer0"]) + 1000 / 3 * sum(apart)


def huber(a: Tensor, b: Tensor) -> Tensor:
    d = (a - b).abs()
    return torch.where(d < 1, d * d / 2, d - 0.5).mean()


def apart(v: Tensor) -> Tensor:
    d = torch.zeros(COUNT, COUNT, dtype=v.dtype)
    for i in range(COUNT):
        for j in range(COUNT):
            if i != j:
                d[i, j] = (v[i] - v[j]).norm()
    return d / (d.sum() / (COUNT * (COUNT - 1)))


def cosines(v: Tensor) -> Tensor:
    e = v[None] - v[:, None]
    e = e / e.norm(dim=2, keepdim=True).clamp_min(1e-12)
    return torch.einsum("ijc,ikc->ijk", e, e)


def rkd(n: Nodes) -> Tensor:
    t, s = n["teacher.vector"], n["peer0.vector"]
    return ce(n["peer0"]) + 25 * huber(apart(s), apart(t)) + 50 * huber(cosines(s), cosines(t))


def crd(n: Nodes) -> Tensor:
    z = n["peer0_contrast"]
    return ce(n["peer0"]) - 0.8 * torch.softmax(z, 1)[:, 0].log().mean()


FORMULAS: dict[str, Callable[[Nodes], Tensor]] = {
    "dml": dml,
    "cl": cl,
    "codistillation": codistillation,
    "one": one,
    "okddip": okddip,
    "kdcl": kdcl,
    "dualnet": dualnet,
    "dks": dks,
    "dcm": dcm,
    "pcl": pcl,
    "byot": byot,
    "multi_exit": multi_exit,
    "kd": kd,
    "fitnets": fitnets,
    "at": at_,
    "rkd": rkd,
    "crd": crd,
}


def test_every_method_has_its_formula() -> None:
    """Those of lfmkd and ffl stand in test_losses; independent has cross-entropies alone."""
    assert set(FORMULAS) == set(METHODS) - {"lfmkd", "ffl", "independent"}


@pytest.mark.parametrize("method", sorted(FORMULAS))
def test_the_loss_is_the_formula(method: str) -> None:
    cohort, graph = made(method)
    nodes = cohort(given(cohort, pictures(), LABELS))
    ramps = {ramp: torch.tensor(W if ramp.share else 1.0, dtype=torch.float64) for ramp in graph.ramps(0, 1)}
    loss, formula = (
        float(x.detach())
        for x in (sum(evaluate_graph(graph, nodes, ramps).values()), FORMULAS[method](nodes))
    )
    assert abs(loss - formula) < 1e-10 * max(1.0, loss)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_threads_and_one_after_the_other_are_the_same_step(method: str) -> None:
    """In float64, shared trunks included."""
    if any(part.draws for part in made(method)[0].parts.values()):
        pytest.skip("draws random numbers: always one after the other")
    gradients = []
    for threads in (0, 3):
        cohort, graph = made(method)
        # fp32: no autocast; the networks are in float64
        engine = Engine(cohort.train(), graph, "cpu", torch.float32, threads)
        engine.step(given(cohort, pictures(), LABELS), at(graph, W))
        engine.close()
        gradients.append({n: p.grad for n, p in cohort.named_parameters() if p.grad is not None})
    one, other = gradients
    assert set(one) == set(other)
    for name, gradient in one.items():
        assert (gradient - other[name]).abs().max() <= 1e-12 * max(1.0, float(gradient.abs().max())), name


@pytest.mark.parametrize("method", sorted(METHODS))
def test_all_that_learns_gets_a_gradient_and_nothing_else(method: str) -> None:
    cohort, graph = made(method)
    sum(parts_of(graph, cohort, pictures(), LABELS).values()).backward()  # type: ignore[union-attr]
    for name, parameter in cohort.named_parameters():
        frozen = name.startswith(("teacher", "ema", "stale"))
        reached = parameter.grad is not None and bool(parameter.grad.abs().max() > 0)
        assert reached == (not frozen) == parameter.requires_grad, name


def test_a_given_teacher_is_not_saved_not_trained_and_always_in_eval_mode() -> None:
    cohort, _ = made("kd")
    teacher = cohort.parts["teacher"]
    assert not any(name.startswith("teacher") for name in cohort.kept())
    before = {n: t.clone() for n, t in teacher.state_dict().items()}
    cohort.train()
    cohort(given(cohort, pictures(), LABELS))
    assert not teacher.training
    assert not teacher.network.training
    assert all(torch.equal(t, before[n]) for n, t in teacher.state_dict().items())
    in_groups = {id(p) for group in cohort.parameter_groups(1e-4) for p in group["params"]}
    assert not in_groups & {id(p) for p in teacher.parameters()}


def test_attention_of_okddip_sums_to_one_and_is_not_symmetric() -> None:
    cohort, _ = made("okddip")
    attention_part = cohort.parts["attention"]
    assert isinstance(attention_part, Attention)
    nodes = cohort(given(cohort, pictures(), LABELS))
    weights = attention_part.weights([nodes[f"{p}.vector"] for p in attention_part.peers])
    assert (weights.sum(2) - 1).abs().max() < 1e-12
    assert (weights - weights.transpose(1, 2)).abs().max() > 1e-6


def test_one_with_a_uniform_gate_is_the_mean() -> None:
    cohort, _ = made("one")
    torch.nn.init.zeros_(cohort.parts["gate"].gate[0].weight)
    torch.nn.init.zeros_(cohort.parts["gate"].gate[0].bias)
    nodes = cohort(given(cohort, pictures(), LABELS))
    assert (nodes["gate"] - (nodes["peer0"] + nodes["peer1"] + nodes["peer2"]) / 3).abs().max() < 1e-12


def random_logits(peers: int = 3) -> list[Tensor]:
    return [
        3 * torch.randn(COUNT, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(i))
        for i in range(peers)
    ]


def losses_of(z: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(z, LABELS, reduction="none")


def test_targets_of_kdcl() -> None:
    logits = random_logits()
    rows = torch.arange(COUNT)
    target = minlogit(*logits, LABELS)
    assert torch.equal(target[rows, LABELS], torch.zeros(COUNT, dtype=torch.float64))
    above = torch.stack([z > z[rows, LABELS][:, None] for z in logits]).all(0)
    assert torch.equal(target > 0, above)
    least = torch.stack([losses_of(z) for z in logits]).min(0).values
    assert (losses_of(target) <= least + 1e-12).all()
    assert torch.equal(losses_of(naive(*logits, LABELS)), least)
    mixed = losses_of(linear(*logits, LABELS))
    assert (mixed <= losses_of(torch.stack(logits).mean(0)) + 1e-12).all()
    assert (mixed <= least + 0.05).all()


def test_weights_of_general_kdcl_sum_to_one_and_favour_the_better_peer() -> None:
    logits = random_logits(2)
    logits[0][torch.arange(COUNT), LABELS] += 9
    part = General("target", ["peer0", "peer1"]).double()
    part.after_epoch({"peer0": logits[0], "peer1": logits[1], "labels": LABELS})
    assert float(part.weights.sum()) == pytest.approx(1)
    assert part.weights[0] > 0.9


def test_an_averaged_copy_is_the_running_mean_at_first_and_then_decays() -> None:
    cohort, _ = made("pcl")
    copy, peer = cohort.parts["ema0"], cohort.peers[0]
    assert isinstance(copy, Copy)
    weight, seen = peer.network.stem[0].weight, []
    for step in range(5):
        with torch.no_grad():
            weight.add_(torch.randn_like(weight))
        seen.append(weight.detach().clone())
        copy.after_step(step)
        assert (copy.network.stem[0].weight - torch.stack(seen).mean(0)).abs().max() < 1e-12
    before = copy.network.stem[0].weight.clone()
    copy.after_step(5000)
    assert (copy.network.stem[0].weight - (0.999 * before + 0.001 * weight)).abs().max() < 1e-12
    assert not copy.network.training


def test_stale_copies_follow_now_and_then() -> None:
    cohort, _ = made("codistillation", every=3)
    copy, network = cohort.parts["stale_peer0"], cohort.networks[0]
    with torch.no_grad():
        network.stem[0].weight.add_(1.0)
    for step in range(3):
        copy.after_step(step)
        assert torch.equal(copy.network.stem[0].weight, network.stem[0].weight) == (step == 2)


def test_the_gradient_of_a_shared_trunk_is_the_mean_of_the_branches() -> None:
    """CL-ILR divides it by their number; the same loss without that is so many times as large."""
    found = []
    for method in ("cl", "ffl"):
        torch.manual_seed(0)
        row = METHODS[method]
        options = row.options(share="stage2") if method == "ffl" else row.options()
        cohort = built(method, ["resnet8"] * 2, CLASSES, SIZE, options).double()
        graph = LossGraph({"peer0": 1.0, "peer1": 1.0})
        sum(parts_of(graph, cohort, pictures(), LABELS).values()).backward()  # type: ignore[union-attr]
        found.append(
            (cohort.networks[0].stem[0].weight.grad, cohort.networks[0].stages[2][0].conv1.weight.grad)
        )
    assert (2 * found[0][0] - found[1][0]).abs().max() < 1e-10
    assert (found[0][1] - found[1][1]).abs().max() < 1e-10


def test_a_memory_learns_and_never_takes_a_picture_for_another() -> None:
    torch.manual_seed(0)
    memory = Memory("m", ("t", "s"), (6, 6), 20, negatives=500, width=4, temperature=0.1)
    index = torch.arange(5)
    logits = memory(torch.randn(5, 6), torch.randn(5, 6), index)["m"]
    assert logits.shape == (5, 501)
    assert logits.isneginf().sum(1).min() > 0  # of 500 drawn from 20, some are the picture itself
    before = memory.memory.clone()
    memory.after_step(0)
    changed = (memory.memory != before).any(1)
    assert changed[:5].all()
    assert not changed[5:].any()


def test_standardised_logits_ignore_scale_and_level() -> None:
    _, graph = made("dml", logits="standard")
    term = next(edge.term for edge in graph.edges)
    a, b = random_logits(2)
    assert float(abs(term(a, b) - term(5 * a + 2, 0.1 * b - 1))) < 1e-9
    assert float(term(a, a)) == 0
