"""Distillation as formulas, the ramp, and which parameters each loss term reaches."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from builders import at, built, enough, given, parts_of
from torch import Tensor, nn

from lfdeploy.models import create
from training.cohort import Cohort
from training.losses import Edge, LossGraph, evaluate_graph
from training.methods import METHODS, ffl, independent, lfmkd
from training.schedule import Ramp, ramp_up
from training.terms import attention_distance, distillation
from training.terms import kd as kd_of

CLOSE = 1e-10
CLASSES, SIZE = 10, 16


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def batch(count: int = 8) -> tuple[Tensor, Tensor]:
    return draw(count, 3, SIZE, SIZE), torch.arange(count) % CLASSES


def cohort_of(
    method: str = "lfmkd", peers: int = 2, seed: int = 0, **options: object
) -> tuple[Cohort, LossGraph]:
    torch.manual_seed(seed)
    row = METHODS[method]
    chosen = row.options(**options)
    cohort = built(method, ["resnet8"] * peers, CLASSES, SIZE, chosen).double()
    return cohort, row.graph(cohort, chosen)


def gradients(cohort: Cohort, graph: LossGraph, ramp: float = 1.0) -> dict[str, Tensor]:
    images, labels = batch()
    cohort.zero_grad(set_to_none=True)
    sum(parts_of(graph, cohort, images, labels, ramp).values()).backward()
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in cohort.named_parameters()
    }


@pytest.mark.parametrize("temperature", [1.0, 3.0, 50.0])
def test_gradient_of_distillation_is_the_formula(temperature: float) -> None:
    teacher, student = draw(6, 7, seed=1).requires_grad_(), draw(6, 7, seed=2).requires_grad_()
    graph = LossGraph({}, (Edge("kd", "t", "s", 1.0, kd_of(temperature)),))
    evaluate_graph(graph, {"t": teacher, "s": student}, at(graph, 1.0))["kd"].backward()
    expected = (
        temperature / 6 * (torch.softmax(student / temperature, 1) - torch.softmax(teacher / temperature, 1))
    )
    assert teacher.grad is None
    assert (student.grad - expected).abs().max() < CLOSE


def test_gradient_at_infinite_temperature_is_that_of_centred_logits() -> None:
    teacher, student = draw(6, 7, seed=1), draw(6, 7, seed=2).requires_grad_()
    distillation(teacher, student, 1e4).backward()
    centred = [z - z.mean(1, keepdim=True) for z in (student.detach(), teacher)]
    assert (student.grad - (centred[0] - centred[1]) / (6 * 7)).abs().max() < 1e-5


def test_temperature_keeps_the_size_of_the_gradient() -> None:
    norms = []
    for temperature in (1.0, 3.0, 50.0):
        student = draw(6, 7, seed=2).requires_grad_()
        distillation(draw(6, 7, seed=1), student, temperature).backward()
        norms.append(student.grad.norm().item())
    assert max(norms) / min(norms) < 2


@pytest.mark.parametrize("temperature", [1.0, 3.0, 50.0])
def test_distillation_is_zero_of_itself_and_never_negative(temperature: float) -> None:
    logits = draw(50, 7) * 5
    assert distillation(logits, logits, temperature).abs() < CLOSE
    for seed in range(20):
        assert distillation(draw(4, 7, seed=seed), draw(4, 7, seed=seed + 100), temperature) > 0


def test_distillation_is_mean_over_the_batch_and_sum_over_classes() -> None:
    teacher, student = draw(5, 7, seed=1), draw(5, 7, seed=2)
    p, q = torch.softmax(teacher / 3, 1), torch.softmax(student / 3, 1)
    expected = 9 * (p * (p / q).log()).sum() / 5
    assert (distillation(teacher, student, 3.0) - expected).abs() < CLOSE


def test_low_precision_logits_are_judged_in_fp32() -> None:
    logits = draw(4, 7).bfloat16()
    assert distillation(logits, logits * 2, 3.0).dtype == torch.float32
    graph = LossGraph({"p": 1.0})
    part = evaluate_graph(graph, {"p": logits, "labels": torch.zeros(4, dtype=torch.long)}, at(graph, 1.0))[
        "ce_p"
    ]
    assert part.dtype == torch.float32
    assert part == F.cross_entropy(logits.float(), torch.zeros(4, dtype=torch.long))


def test_attention_distance_ignores_scale_and_channels() -> None:
    maps = draw(3, 4, 5, 5)
    assert attention_distance(maps, 7 * maps) < CLOSE
    assert attention_distance(maps, maps.repeat(1, 3, 1, 1)) < CLOSE
    other = draw(3, 4, 5, 5, seed=9)
    q = [(m**2).mean(1).flatten(1) for m in (maps, other)]
    q = [v / (v**2).sum(1, keepdim=True).sqrt() for v in q]
    assert (attention_distance(maps, other) - ((q[0] - q[1]) ** 2).mean()).abs() < CLOSE


def test_teacher_of_maps_is_detached() -> None:
    teacher, student = draw(2, 3, 4, 4).requires_grad_(), draw(2, 3, 4, 4, seed=1).requires_grad_()
    graph = LossGraph({}, (Edge("maps", "t", "s", 2.0, attention_distance),))
    part = evaluate_graph(graph, {"t": teacher, "s": student}, at(graph, 0.5))["maps"]
    assert (part - attention_distance(teacher, student)).abs() < CLOSE
    part.backward()
    assert teacher.grad is None
    assert student.grad.abs().max() > 0


def test_parts_are_weighted_ramped_and_summed_by_name() -> None:
    a, b, c = (draw(4, 7, seed=s) for s in range(3))
    labels = torch.tensor([0, 1, 2, 3])
    graph = LossGraph(
        {"a": 2.0}, (Edge("kd", "a", "b", 0.5, kd_of(2.0)), Edge("kd", "a", "c", 3.0, kd_of(4.0)))
    )
    parts = evaluate_graph(graph, {"a": a, "b": b, "c": c, "labels": labels}, at(graph, 0.25))
    assert set(parts) == {"ce_a", "kd"}
    assert (parts["ce_a"] - 2 * F.cross_entropy(a, labels)).abs() < CLOSE
    assert (parts["kd"] - 0.25 * (0.5 * distillation(a, b, 2.0) + 3 * distillation(a, c, 4.0))).abs() < CLOSE


@pytest.mark.parametrize(
    ("epoch", "value"),
    [
        (0, 0.006738),
        (1, 0.007629),
        (10, 0.021750),
        (20, 0.060055),
        (40, 0.286505),
        (60, 0.731616),
        (79, 0.999219),
        (80, 1),
        (300, 1),
    ],
)
def test_ramp(epoch: int, value: float) -> None:
    assert ramp_up(epoch, 80) == pytest.approx(value, abs=1e-6)


def test_ramp_of_length_zero_is_one_and_its_mean_is_known() -> None:
    assert [ramp_up(e, 0) for e in range(3)] == [1.0, 1.0, 1.0]
    assert sum(ramp_up(e, 80) for e in range(300)) / 300 == pytest.approx(0.837, abs=5e-4)


def test_default_ramp_is_that_of_ffl() -> None:
    assert round(lfmkd.Options().ramp * 300) in (80, 81)
    assert cohort_of("ffl")[1].ramp == Ramp(lfmkd.Options().ramp) == Ramp(ffl.Options().ramp)


# ---------------------------------------------------------------- which parameters a term reaches

GROUPS = {
    "convs": lambda n: n.startswith("peer") and ".head." not in n,
    "peer_fc": lambda n: n.startswith("peer") and ".head." in n,
    "middle": lambda n: n.startswith("aux"),
    "end": lambda n: n.startswith("fused."),
}


def ce(*nodes: str) -> LossGraph:
    return LossGraph(dict.fromkeys(nodes, 1.0))


def kd(teacher: str, *students: str) -> LossGraph:
    return LossGraph({}, tuple(Edge("kd", teacher, s, 1.0) for s in students))


TABLE = [
    ("CE(z_m)", ce("peer0", "peer1"), {"convs", "peer_fc"}, {"convs", "peer_fc"}),
    ("KD(z_f -> z_m)", kd("fused", "peer0", "peer1"), {"convs", "peer_fc"}, {"convs", "peer_fc"}),
    ("KD(a_0 -> z_m)", kd("aux0", "peer0", "peer1"), {"convs", "peer_fc"}, {"convs", "peer_fc"}),
    ("KD(a_1 -> z_m)", kd("aux1", "peer0", "peer1"), {"convs", "peer_fc"}, {"convs", "peer_fc"}),
    ("KD(z_bar -> z_f)", kd("ensemble", "fused"), {"convs", "end"}, {"end"}),
    ("CE(z_f)", ce("fused"), {"convs", "end"}, {"end"}),
    ("CE(a_s)", ce("aux0", "aux1"), {"convs", "middle"}, {"middle"}),
    ("KD(z_f -> a_s)", kd("fused", "aux0", "aux1"), {"convs", "middle"}, {"middle"}),
]


@pytest.mark.parametrize("detach", [False, True], ids=["attached", "detached"])
@pytest.mark.parametrize(
    ("graph", "attached", "detached"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_gradient_table(graph: LossGraph, attached: set[str], detached: set[str], detach: bool) -> None:
    cohort, _ = cohort_of(detach_taps=detach)
    found = gradients(cohort, graph)
    reached = {
        group
        for group, inside in GROUPS.items()
        if any(g.abs().max() > 0 for n, g in found.items() if inside(n))
    }
    assert reached == (detached if detach else attached)


def test_a_teacher_reaches_its_student_and_no_other_peer() -> None:
    cohort, _ = cohort_of()
    for teacher in ("fused", "aux0", "peer1", "ensemble"):
        found = gradients(cohort, kd(teacher, "peer0"))
        assert max(g.abs().max() for n, g in found.items() if n.startswith("peer0.")) > 0
        assert max(g.abs().max() for n, g in found.items() if not n.startswith("peer0.")) == 0


def test_teaching_a_peer_passes_only_through_its_logits() -> None:
    """The gradient of KD(z_f -> z_m) is that of a fixed target: nothing comes back along the taps."""
    cohort, _ = cohort_of()
    images, _ = batch()
    target = cohort.see(images)["fused"].detach()
    taught = gradients(cohort, kd("fused", "peer0"))
    cohort.zero_grad(set_to_none=True)
    distillation(target, cohort.see(images)["peer0"], 3.0).backward()
    for name, p in cohort.named_parameters():
        if name.startswith("peer0."):
            assert torch.equal(p.grad, taught[name]), name


@pytest.mark.parametrize("method", ["lfmkd", "ffl"])
def test_without_ramp_the_logged_edges_change_no_gradient(method: str) -> None:
    cohort, graph = cohort_of(method)
    with_edges, labels_only = gradients(cohort, graph, 0.0), gradients(cohort, LossGraph(graph.labels))
    assert all(torch.equal(with_edges[n], labels_only[n]) for n in labels_only)
    full = gradients(cohort, graph, 1.0)
    assert any(not torch.equal(full[n], labels_only[n]) for n in labels_only)


# ---------------------------------------------------------------- the losses of the methods


def test_loss_of_lfmkd_is_the_sum_of_section_two() -> None:
    cohort, graph = cohort_of(
        peers=3,
        label_fused=0.7,
        label_aux=0.6,
        lambda_fused=0.9,
        lambda_aux=0.8,
        lambda_ensemble=1.1,
        lambda_teachers=0.3,
    )
    images, labels = batch()
    z = cohort.see(images)
    w, t, peers, aux = 0.4, 3.0, ["peer0", "peer1", "peer2"], ["aux0", "aux1"]
    bar = (z["peer0"] + z["peer1"] + z["peer2"]) / 3
    expected = {f"ce_{p}": F.cross_entropy(z[p], labels) for p in peers}
    expected["ce_fused"] = 0.7 * F.cross_entropy(z["fused"], labels)
    expected |= {f"ce_{a}": 0.6 * F.cross_entropy(z[a], labels) for a in aux}
    expected["kd_fused"] = w * 0.9 * sum(distillation(z["fused"], z[p], t) for p in peers)
    expected["kd_aux"] = w * 0.8 / 2 * sum(distillation(z[a], z[p], t) for a in aux for p in peers)
    expected["kd_ensemble"] = w * 1.1 * distillation(bar, z["fused"], t)
    expected["kd_teachers"] = w * 0.3 / 2 * sum(distillation(z["fused"], z[a], t) for a in aux)
    parts = parts_of(graph, cohort, images, labels, w)
    assert set(parts) == set(expected)
    for name, value in expected.items():
        assert (parts[name] - value).abs() < CLOSE, name


def test_loss_of_lfmkd_by_maps() -> None:
    cohort, graph = cohort_of(knowledge="maps", beta=10.0)
    images, labels = batch()
    nodes = cohort.see(images)
    peers = [network.features(images) for network in cohort.networks]
    expected = (
        sum(attention_distance(nodes[f"aux{s}.map"], peers[m][s]) for s in (0, 1) for m in (0, 1)) * 10 / 2
    )
    parts = parts_of(graph, cohort, images, labels)
    assert "kd_aux" not in parts
    assert (parts["maps_aux"] - expected).abs() < CLOSE
    only = LossGraph({}, tuple(e for e in graph.edges if e.part == "maps_aux"))
    found = gradients(cohort, only)
    assert max(g.abs().max() for n, g in found.items() if not n.startswith("peer")) == 0
    assert max(g.abs().max() for n, g in found.items() if n.startswith("peer")) > 0


def test_ffl_is_lfmkd_without_taps() -> None:
    (one, graph), (other, its) = cohort_of("ffl"), cohort_of("lfmkd", taps="none")
    assert graph == its
    assert {n: t.shape for n, t in one.state_dict().items()} == {
        n: t.shape for n, t in other.state_dict().items()
    }
    assert all(
        torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )
    images, labels = batch()
    parts, its_parts = (parts_of(g, c, images, labels, 0.3) for c, g in ((one, graph), (other, its)))
    assert set(parts) == {"ce_peer0", "ce_peer1", "ce_fused", "kd_fused", "kd_ensemble"}
    assert parts == its_parts
    found, expected = gradients(one, graph, 0.3), gradients(other, its, 0.3)
    assert all(torch.equal(found[n], expected[n]) for n in expected)


def test_ffl_is_the_loss_of_its_paper() -> None:
    cohort, graph = cohort_of("ffl")
    images, labels = batch()
    z = cohort.see(images)
    bar = (z["peer0"] + z["peer1"]) / 2
    expected = sum(F.cross_entropy(z[n], labels) for n in ("peer0", "peer1", "fused"))
    expected = expected + 0.3 * (
        sum(distillation(z["fused"], z[p], 3.0) for p in ("peer0", "peer1"))
        + distillation(bar, z["fused"], 3.0)
    )
    assert (sum(parts_of(graph, cohort, images, labels, 0.3).values()) - expected).abs() < CLOSE


def independent_gradients(peers: int) -> dict[str, Tensor]:
    cohort, graph = cohort_of("independent", peers)
    assert isinstance(independent.Options(), METHODS["independent"].options)
    return gradients(cohort, graph)


@pytest.mark.parametrize(
    "options",
    [
        {
            "label_fused": 0.0,
            "label_aux": 0.0,
            "lambda_fused": 0.0,
            "lambda_aux": 0.0,
            "lambda_ensemble": 0.0,
        },
        {"detach_taps": True, "lambda_fused": 0.0, "lambda_aux": 0.0},
        {
            "detach_taps": True,
            "lambda_fused": 0.0,
            "lambda_aux": 0.0,
            "lambda_teachers": 1.0,
            "knowledge": "maps",
            "beta": 0.0,
        },
    ],
    ids=["weights zero", "detached", "detached maps"],
)
@pytest.mark.parametrize("peers", [2, 3])
def test_peers_without_knowledge_train_as_alone(options: dict[str, object], peers: int) -> None:
    cohort, graph = cohort_of(peers=peers, **options)
    found, alone = gradients(cohort, graph), independent_gradients(peers)
    assert len(alone) == peers * len(list(create("resnet8", CLASSES).parameters()))
    for name, gradient in alone.items():
        assert torch.equal(found[name], gradient), name


def test_attached_labels_of_teachers_do_reach_the_peers() -> None:
    cohort, graph = cohort_of(lambda_fused=0.0, lambda_aux=0.0)
    found, alone = gradients(cohort, graph), independent_gradients(2)
    assert any(not torch.equal(found[n], alone[n]) for n in alone)


@pytest.mark.parametrize("method", sorted(name for name, row in METHODS.items() if row.least == 1))
def test_one_peer_runs(method: str) -> None:
    cohort, graph = cohort_of(method, peers=1)
    images, labels = batch()
    nodes = cohort.see(images)
    parts = parts_of(graph, cohort, images, labels)
    assert all(part.isfinite() for part in parts.values())
    assert torch.equal(nodes["ensemble"], nodes["peer0"])
    assert all(g.isfinite().all() for g in gradients(cohort, graph).values())


def test_ffl_of_one_peer_without_edges_is_a_network_with_a_side_classifier() -> None:
    cohort, graph = cohort_of("ffl", peers=1)
    found = gradients(cohort, graph, 0.0)
    images, labels = batch()
    network, head = cohort.networks[0], cohort.parts["fused"].head
    cohort.zero_grad(set_to_none=True)
    last = network.last_map(images)
    (F.cross_entropy(network.head(last), labels) + F.cross_entropy(head([last]), labels)).backward()
    for name, p in cohort.named_parameters():
        assert (p.grad - found[name]).abs().max() < CLOSE, name


@pytest.mark.parametrize("method", sorted(METHODS))
def test_loss_at_the_start_is_that_of_chance(method: str) -> None:
    torch.manual_seed(0)
    row = METHODS[method]
    cohort = built(method, ["resnet8"] * enough(method), 100, SIZE, row.options()).double()
    images, labels = draw(64, 3, SIZE, SIZE), torch.arange(64) % 100
    graph = row.graph(cohort, row.options())
    parts = parts_of(graph, cohort, images, labels, ramp_up(0, 80))
    cross = {n: p.item() for n, p in parts.items() if n.startswith("ce_")}
    assert len(cross) == len(graph.labels)
    for name, value in cross.items():
        assert value == pytest.approx(graph.labels[name.removeprefix("ce_")] * math.log(100), rel=0.2), name
    if graph.ramp.share == 0:
        return  # a method that teaches from the start
    assert sum(p.item() for n, p in parts.items() if n not in cross) < 0.01 * sum(
        p.item() for p in parts.values()
    )


def test_every_node_of_a_graph_exists() -> None:
    for method in METHODS:
        cohort, graph = cohort_of(method, enough(method))
        nodes = cohort(given(cohort, *batch()))
        assert set(graph.labels) <= set(nodes)
        for edge in graph.edges:
            assert {edge.teacher, edge.student} <= set(nodes)
        assert isinstance(cohort, nn.Module)
        assert set(cohort.names) <= set(nodes)


def test_a_teacher_that_is_worse_teaches_nothing() -> None:
    """Picture by picture: the loss and its gradient are those of the pictures that it answers better."""
    teacher, student = draw(8, CLASSES, seed=1), draw(8, CLASSES, seed=2).requires_grad_()
    labels = torch.arange(8) % CLASSES
    graph = LossGraph({}, (Edge("kd", "t", "s", 2.0, if_better=True),))
    nodes = {"t": teacher, "s": student, "labels": labels}
    found = evaluate_graph(graph, nodes, graph.ramps(0, 1))["kd"]
    better = [
        i
        for i in range(8)
        if teacher[i].log_softmax(0)[labels[i]] > student.detach()[i].log_softmax(0)[labels[i]]
    ]
    assert 0 < len(better) < 8
    expected = 2.0 * distillation(teacher[better], student[better], 3.0) * len(better) / 8
    assert abs(found - expected) < CLOSE
    (gradient,) = torch.autograd.grad(found, student, retain_graph=True)
    assert (gradient - torch.autograd.grad(expected, student)[0]).abs().max() < CLOSE
    assert set(gradient.abs().sum(1).gt(CLOSE).nonzero().flatten().tolist()) == set(better)
