"""Cohorts: sizes, symmetry, deployment, options, unlike peers, and that every method can learn."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from builders import at, auxiliaries, built, enough, given, parts_of
from torch import Tensor, nn

from lfdeploy.config import parse_options
from lfdeploy.errors import UsageError
from lfdeploy.models import create
from lfdeploy.models.deploy import build_network
from lfdeploy.models.fusion import Fusion, align
from lfdeploy.models.targets import layout_of, top1_of
from training.cohort import Cohort
from training.engine import Engine
from training.losses import LossGraph
from training.methods import METHODS, lfmkd
from training.schedule import Ramp

CLASSES = 10


def images(count: int = 6, size: int = 16, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(count, 3, size, size, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def labels(count: int = 6) -> Tensor:
    return torch.arange(count) % CLASSES


def cohort_of(
    method: str = "lfmkd",
    archs: str = "resnet8,resnet8",
    size: int = 16,
    seed: int = 0,
    classes: int = CLASSES,
    **options: str,
) -> tuple[Cohort, LossGraph]:
    """A cohort and its loss, with options as a user writes them."""
    torch.manual_seed(seed)
    row = METHODS[method]
    chosen = parse_options(row.options, list(options.items()), method)
    networks = archs.split(",")
    cohort = built(method, networks + networks[:1] * (enough(method) - len(networks)), classes, size, chosen)
    return cohort, row.graph(cohort, chosen)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def seen(cohort: Cohort, size: int = 16) -> Cohort:
    """After a few training passes, so that every BatchNorm has statistics of its own."""
    cohort.train()
    with torch.no_grad():
        for seed in range(3):
            cohort.see(images(8, size, seed + 10, next(cohort.parameters()).dtype) * 2 + 0.5)
    return cohort.eval()


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("arch", "parameters"), [("resnet32", 472_756), ("resnet56", 861_620), ("resnet110", 1_736_564)]
)
def test_parameters_of_a_peer(arch: str, parameters: int) -> None:
    assert count(create(arch, 100)) == parameters


@pytest.mark.parametrize(
    ("archs", "middle", "end"), [(2, [1_276, 3_468], 16_228), (3, [1_708, 4_844], 21_028)]
)
def test_parameters_of_fusions(archs: int, middle: list[int], end: int) -> None:
    cohort, _ = cohort_of(archs=",".join(["resnet32"] * archs), size=32, classes=100, attn="cbam")
    assert [count(t.fusion) + count(t.attention) for t in auxiliaries(cohort)] == middle
    assert count(cohort.parts["fused"].head) == end


HEADS = [
    ("resnet32", "gap", [1_700, 3_300]),
    ("resnet32", "lite", [9_780, 9_028]),
    ("resnet32", "continue", [300_964, 360_164]),
    ("resnet32", "auto", [300_964, 360_164]),
    ("resnet32", "dks", [300_964, 1_383_780]),
    ("resnet8", "continue", [78_756, 64_228]),
]


@pytest.mark.parametrize(("arch", "head", "expected"), HEADS)
def test_parameters_of_auxiliary_heads(arch: str, head: str, expected: list[int]) -> None:
    cohort, _ = cohort_of(archs=f"{arch},{arch}", size=32, classes=100, aux_head=head)
    assert [count(t.head) for t in auxiliaries(cohort)] == expected


def test_shapes_of_resnet32() -> None:
    cohort, _ = cohort_of(archs="resnet32,resnet32", size=32, classes=100)
    nodes = cohort.see(images(2, 32, dtype=torch.float32))
    assert {n: tuple(m.shape) for n, m in nodes.items() if n.endswith(".map")} == {
        "aux0.map": (2, 16, 32, 32),
        "aux1.map": (2, 32, 16, 16),
    }
    assert {tuple(nodes[name].shape) for name in cohort.names} == {(2, 100)}
    assert cohort.names == ["peer0", "peer1", "fused", "ensemble", "aux0", "aux1"]


def test_operator_of_fusion() -> None:
    kinds = {op: [type(m).__name__ for m in Fusion([4, 6], op).layers] for op in ("dwpw", "pw")}
    assert kinds == {"dwpw": ["Conv2d", "BatchNorm2d", "ReLU"] * 2, "pw": ["Conv2d", "BatchNorm2d", "ReLU"]}
    depthwise = Fusion([4, 6]).layers[0]
    assert (depthwise.groups, depthwise.out_channels, depthwise.kernel_size) == (10, 10, (3, 3))
    a, b = images(2).repeat(1, 2, 1, 1), images(2, seed=1).repeat(1, 2, 1, 1)
    assert torch.equal(Fusion([6, 6], "sum")([a, b]), (a + b) / 2)
    with pytest.raises(ValueError, match="equal channels"):
        Fusion([4, 6], "sum")


# ---------------------------------------------------------------- symmetry and independence


def permuted(cohort: Cohort, archs: str, order: list[int], **options: str) -> Cohort:
    """The same peers in another order, and the channel blocks of every fusion with them."""
    other, _ = cohort_of(archs=archs, seed=99, **options)
    other.to(next(cohort.parameters()).dtype)
    state = {n: t.clone() for n, t in cohort.state_dict().items()}
    for new, old in enumerate(order):
        other.networks[new].load_state_dict(cohort.networks[old].state_dict())
    for name, tensor in state.items():
        if name.startswith("peer") or ".fusion.layers." not in name:
            continue
        layer = int(name.split(".fusion.layers.")[1].split(".")[0])
        axis = {0: 0, 1: 0, 3: 1}.get(layer)  # depthwise, its BatchNorm, input columns of the pointwise
        if axis is not None and tensor.ndim > 0:
            blocks = tensor.chunk(len(order), dim=axis)
            state[name] = torch.cat([blocks[old] for old in order], dim=axis)
    rest = {n: t for n, t in state.items() if not n.startswith("peer")}
    missing, unexpected = other.load_state_dict(rest, strict=False)
    assert all(n.startswith("peer") for n in missing)
    assert not unexpected
    return other


@pytest.mark.parametrize("order", [[1, 0], [2, 0, 1]], ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_swapping_peers_and_their_channels_leaves_the_loss(order: list[int], training: bool) -> None:
    archs = ",".join(["resnet8"] * len(order))
    cohort, graph = cohort_of(archs=archs)
    cohort.double()
    with torch.no_grad():
        for p in cohort.parameters():
            p.add_(0.1 * torch.randn_like(p))
    other = permuted(seen(cohort), archs, order)
    x, y = images(), labels()
    peers_only = copy.deepcopy(cohort)
    for new, old in enumerate(order):
        peers_only.networks[new].load_state_dict(cohort.networks[old].state_dict())
    losses, answers = [], []
    for one in (cohort, other, peers_only):
        one.eval()
        with torch.no_grad():
            answers.append(one.see(x))
        losses.append(sum(parts_of(graph, one.train(training), x, y).values()).item())
    assert losses[1] == pytest.approx(losses[0], abs=1e-10)
    assert abs(losses[2] - losses[0]) > 1e-6
    for new, old in enumerate(order):
        assert torch.equal(answers[1][f"peer{new}"], answers[0][f"peer{old}"])
    for name in ("fused", "ensemble", "aux0", "aux1"):
        assert (answers[1][name] - answers[0][name]).abs().max() < 1e-10


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_no_peer_hears_another_in_the_forward_pass(method: str, training: bool) -> None:
    cohort, _ = cohort_of(method)
    seen(cohort.double())
    x, second = images(), cohort.peers[1].name

    def answers() -> dict[str, Tensor]:
        state = {n: t.clone() for n, t in cohort.state_dict().items()}
        with torch.no_grad():
            nodes = cohort.train(training).see(x)
            found = {name: nodes[name] for name in cohort.names}
        if training:  # statistics moved; the perturbation below must be the only change
            cohort.load_state_dict(state)
        return found

    before = answers()
    changed = cohort.networks[1]  # but for a trunk that all may share
    with torch.no_grad():
        for p in (*changed.stages[-1].parameters(), *changed.head.parameters()):
            p.add_(torch.randn_like(p))
    after = answers()
    for name in before:
        last = any(
            read == f"{second}.map{len(changed.stages) - 1}" or read == second
            for read in _reads(cohort, name)
        )
        assert torch.equal(before[name], after[name]) == (not last), name


def _reads(cohort: Cohort, name: str) -> tuple[str, ...]:
    """What a reported node is computed from: itself for a peer."""
    peers = {peer.name for peer in cohort.peers}
    return (name,) if name in peers else cohort.parts[name].reads


def test_nothing_is_shared_unless_asked() -> None:
    cohort, _ = cohort_of()
    own = [{id(t) for t in (*peer.parameters(), *peer.buffers())} for peer in cohort.networks]
    assert not own[0] & own[1]
    assert not torch.equal(cohort.networks[0].stem[0].weight, cohort.networks[1].stem[0].weight)


@pytest.mark.parametrize(
    ("share", "taps", "parts"), [("stem", "auto", 1), ("stage1", "2", 2), ("stage2", "none", 3)]
)
def test_shared_parts_are_one_and_train_from_every_peer(share: str, taps: str, parts: int) -> None:
    cohort, graph = cohort_of(share=share, taps=taps)
    cohort.double()
    a, b = ([network.stem, *network.stages] for network in cohort.networks)
    assert [x is y for x, y in zip(a, b, strict=True)] == [k < parts for k in range(4)]
    x, y = images(), labels()
    nodes = cohort.see(x)
    whole = [network(x) for network in cohort.networks]
    assert all(torch.equal(nodes[f"peer{i}"], z) for i, z in enumerate(whole))
    sum(parts_of(graph, cohort, x, y).values()).backward()
    assert all(p.grad is not None for p in cohort.parameters())
    weight = cohort.networks[0].stem[0].weight
    both = torch.autograd.grad(sum(F.cross_entropy(z, y) for z in whole), weight, retain_graph=True)[0]
    single = [torch.autograd.grad(F.cross_entropy(z, y), weight, retain_graph=True)[0] for z in whole]
    assert (both - single[0] - single[1]).abs().max() < 1e-10


@pytest.mark.parametrize("method", sorted(METHODS))
def test_evaluation_repeats_itself_and_does_not_depend_on_the_batch(method: str) -> None:
    cohort, _ = cohort_of(method)
    seen(cohort.double())
    x = images()
    with torch.no_grad():
        state = {n: t.clone() for n, t in cohort.state_dict().items()}
        first, second = cohort.see(x), cohort.see(x)
        single = [cohort.see(x[i : i + 1]) for i in range(len(x))]
    for name, logits in first.items():
        assert torch.equal(logits, second[name])
        assert (torch.cat([s[name] for s in single]) - logits).abs().max() < 1e-10, name
    assert all(torch.equal(t, state[n]) for n, t in cohort.state_dict().items())


# ---------------------------------------------------------------- deployment

MIXED = ["resnet8,resnet8", "resnet8,resnet14", "resnet8,mobilenet_v3_small"]
#: What unlike networks do not have in common: a trunk to share, or the width of their last maps.
UNLIKE = [("one", MIXED[1]), ("one", MIXED[2]), ("okddip", MIXED[2]), ("dualnet", MIXED[2])]


@pytest.mark.parametrize("archs", [*MIXED[:2], pytest.param(MIXED[2], marks=pytest.mark.wide)])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_what_is_deployed_answers_as_it_did_in_the_cohort(method: str, archs: str) -> None:
    if (method, archs) in UNLIKE:
        with pytest.raises(UsageError, match=r"equal channels|one architecture"):
            cohort_of(method, archs, size=32)
        return
    cohort, _ = cohort_of(method, archs, size=32)
    seen(cohort, 32)
    names = archs.split(",")
    spec = {"method": method, "archs": names, "classes": list(range(CLASSES))} | cohort.layout.document()
    spec, weights = json.loads(json.dumps(spec)), cohort.kept()
    x = images(5, 32, dtype=torch.float32)
    with torch.no_grad():
        inside = cohort.see(x)
        for target, row in cohort.layout.targets.items():
            network = build_network(target, spec, weights)
            assert not network.training
            assert torch.equal(network(x), inside[target]), target
            if row.kind == "network":
                plain = create(cohort.layout.archs(target)[0], CLASSES)
                assert list(network.state_dict()) == list(plain.state_dict())
    assert set(cohort.layout.ships) <= set(cohort.layout.targets)
    for target in cohort.watched:
        with pytest.raises(UsageError, match="It has: "):
            build_network(target, spec, weights)


def test_a_peer_of_a_cohort_that_shares_parts_deploys_alone() -> None:
    cohort, _ = cohort_of("ffl", share="stage2")
    seen(cohort)
    spec = {
        "method": "ffl",
        "archs": ["resnet8", "resnet8"],
        "classes": list(range(CLASSES)),
    } | cohort.layout.document()
    x = images(dtype=torch.float32)
    with torch.no_grad():
        for i in range(2):
            assert torch.equal(
                build_network(f"peer{i}", spec, cohort.state_dict())(x), cohort.see(x)[f"peer{i}"]
            )


def test_a_run_from_before_the_table_of_targets_is_read() -> None:
    """spec.json told of architectures and of a fused classifier; weights were named
    by the place of a peer.
    """
    cohort, _ = cohort_of(archs="resnet8,resnet14")
    seen(cohort)
    fusion = cohort.parts["fused"].head.fusion
    spec = {
        "archs": ["resnet8", "resnet14"],
        "classes": list(range(CLASSES)),
        "fused": {"channels": [64, 64], "operator": fusion.operator},
    }
    names = {"peer0.network.": "peers.0.", "peer1.network.": "peers.1.", "fused.head.": "fused."}
    weights = {
        old + key.removeprefix(new): value
        for new, old in names.items()
        for key, value in cohort.kept().items()
        if key.startswith(new)
    }
    x = images(dtype=torch.float32)
    with torch.no_grad():
        for target in ("peer0", "peer1", "fused", "ensemble"):
            assert torch.equal(build_network(target, spec, weights)(x), cohort.see(x)[target]), target
    assert list(layout_of(spec).targets) == ["peer0", "peer1", "fused", "ensemble"]
    assert list(layout_of(spec | {"fused": None}).targets) == ["peer0", "peer1", "ensemble"]
    assert top1_of({"peers": [1.0, 2.0], "fused": None, "ensemble": 3.0}) == {
        "peer0": 1.0,
        "peer1": 2.0,
        "ensemble": 3.0,
    }


# ---------------------------------------------------------------- options

SWITCHES = [
    {},
    {"taps": "none"},
    {"taps": "1"},
    {"taps": "2"},
    {"taps": "1,2"},
    {"taps": "2,1"},
    {"share": "stem"},
    {"share": "stage1", "taps": "2"},
    {"share": "stage2", "taps": "none"},
    {"fuse": "pw"},
    {"fuse": "sum"},
    {"attn": "none"},
    {"attn": "se"},
    {"attn": "eca"},
    {"attn": "cbam"},
    *({"attn": a, "attn_pos": "concat"} for a in ("se", "eca", "cbam")),
    {"attn": "cbam", "attn_pos": "concat", "fuse": "sum"},
    {"attn": "eca", "attn_pos": "concat", "fuse": "pw"},
    *({"aux_head": h} for h in ("gap", "lite", "continue", "dks")),
    {"knowledge": "maps"},
    {"knowledge": "maps", "beta": "10", "lambda_teachers": "1"},
    {"detach_taps": "true"},
    {"detach_taps": "true", "knowledge": "maps"},
    {"temperature": "1"},
    {"ramp": "0"},
    {"label_fused": "0"},
    {"label_aux": "0"},
    {"label_aux": "0", "lambda_teachers": "0.5"},
    {"label_fused": "0", "lambda_ensemble": "0"},
    {"lambda_fused": "0"},
    {"lambda_aux": "0"},
    {"lambda_ensemble": "0"},
]


def trained(options: dict[str, str]) -> dict[str, bool]:
    """Which parts besides the peers the loss trains, by the weights alone."""
    on = {
        key: float(options.get(key, default)) > 0
        for key, default in {
            "label_fused": "1",
            "label_aux": "1",
            "lambda_ensemble": "1",
            "lambda_teachers": "0",
        }.items()
    }
    return {
        "fused.": on["label_fused"] or on["lambda_ensemble"],
        "aux": on["label_aux"] or on["lambda_teachers"],
        "peer": True,
    }


@pytest.mark.parametrize(
    "options", SWITCHES, ids=lambda o: " ".join(f"{k}={v}" for k, v in o.items()) or "defaults"
)
def test_every_switch_builds_and_trains_what_it_should(options: dict[str, str]) -> None:
    cohort, graph = cohort_of(**options)
    x, y = images(8, dtype=torch.float32), labels(8)
    parts = parts_of(graph, cohort, x, y)
    assert all(part.isfinite() for part in parts.values())
    sum(parts.values()).backward()
    for name, p in cohort.named_parameters():
        expected = next(on for prefix, on in trained(options).items() if name.startswith(prefix))
        reached = p.grad is not None and bool(p.grad.isfinite().all()) and bool(p.grad.abs().max() > 0)
        assert reached == expected, name
    dropped = {
        "label_fused": "ce_fused",
        "label_aux": "ce_aux0",
        "lambda_fused": "kd_fused",
        "lambda_aux": "kd_aux",
        "lambda_ensemble": "kd_ensemble",
    }
    for option, part in dropped.items():
        if options.get(option) == "0":
            assert part not in parts


def test_switches_change_what_they_name() -> None:
    taps = {t: len(cohort_of(taps=t)[0].watched) for t in ("auto", "none", "1", "2", "1,2")}
    assert taps == {"auto": 2, "none": 0, "1": 1, "2": 1, "1,2": 2}
    kinds = {
        a: type(auxiliaries(cohort_of(attn=a)[0])[0].attention).__name__
        for a in ("none", "se", "eca", "cbam")
    }
    assert kinds == {
        "none": "Identity",
        "se": "SqueezeExcite",
        "eca": "EfficientChannelAttention",
        "cbam": "CBAM",
    }
    assert auxiliaries(cohort_of(attn="se")[0])[0].attention.gate[0].in_features == 16
    assert auxiliaries(cohort_of(attn="se", attn_pos="concat")[0])[0].attention.gate[0].in_features == 32
    assert {e.term.temperature for e in cohort_of(temperature="2.5")[1].edges} == {2.5}
    assert cohort_of(ramp="0.1")[1].ramp == Ramp(0.1)
    groups = cohort_of(fusion_weight_decay="0.25")[0].parameter_groups(0.5)
    assert [g["weight_decay"] for g in groups] == [0.5, 0.25]


def test_fusion_operators_have_their_own_weight_decay_and_every_parameter_one_group() -> None:
    cohort, _ = cohort_of()
    groups = cohort.parameter_groups(5e-4)
    assert [g["weight_decay"] for g in groups] == [5e-4, 1e-5]
    members = [{id(p) for p in g["params"]} for g in groups]
    assert (
        sum(len(g["params"]) for g in groups)
        == len(members[0] | members[1])
        == len(list(cohort.parameters()))
    )
    small = {id(p) for t in auxiliaries(cohort) for m in (t.fusion, t.attention) for p in m.parameters()} | {
        id(p) for p in cohort.parts["fused"].parameters()
    }
    assert members[1] == small
    shared = cohort_of("ffl", share="stage2")[0]
    assert sum(len(g["params"]) for g in shared.parameter_groups(5e-4)) == len(list(shared.parameters()))


def test_attention_gates_lie_between_nothing_and_everything() -> None:
    for kind in ("se", "eca", "cbam"):
        attention = auxiliaries(cohort_of(attn=kind)[0])[0].attention
        x = images(4, dtype=torch.float32).repeat(1, 6, 1, 1)[:, :16].abs() + 0.1
        ratio = attention(x) / x
        assert 0 < ratio.min() < ratio.max() < 1
        if kind != "cbam":  # one gate per channel
            assert (ratio.amax((2, 3)) - ratio.amin((2, 3))).max() < 1e-5


WRONG = [
    ("lfmkd", {"taps": "3"}, "middle stages of this network are 1 to 2"),
    ("lfmkd", {"taps": "0"}, "names stage 0"),
    ("lfmkd", {"taps": "one"}, "write auto, none, or stages"),
    ("lfmkd", {"taps": ""}, "write auto, none, or stages"),
    ("lfmkd", {"share": "stage1"}, "fuse a map with itself"),
    ("lfmkd", {"share": "stage2"}, "fuse a map with itself"),
    ("lfmkd", {"share": "stage3"}, "Choose one of: none, stem, stage1, stage2"),
    ("lfmkd", {"fuse": "max"}, "Choose one of: dwpw, pw, sum"),
    ("lfmkd", {"attn": "vit"}, "Choose one of: none, se, eca, cbam, at, bilinear"),
    ("lfmkd", {"attn_pos": "before"}, "Choose one of: fused, concat, peer"),
    ("lfmkd", {"attn_pos": "peer"}, "has no meaning without attention; add -o attn cbam"),
    ("lfmkd", {"aux_head": "mlp"}, "Choose one of: auto, gap, lite, continue, dks"),
    ("lfmkd", {"knowledge": "features"}, "Choose one of: logits, maps, both"),
    ("lfmkd", {"detach_taps": "maybe"}, "must be true or false"),
    ("lfmkd", {"lambda_fused": "much"}, "must be a number"),
    ("lfmkd", {"lambda_fuse": "1"}, "Did you mean 'lambda_fused'"),
    ("ffl", {"taps": "1"}, "Unknown option of ffl"),
    ("independent", {"temperature": "3"}, "Unknown option of independent"),
]


@pytest.mark.parametrize(("method", "options", "words"), WRONG, ids=lambda v: str(v)[:40])
def test_wrong_values_are_said_in_one_line(method: str, options: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        cohort_of(method, **options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("temperature", ["0", "-1", "nan", "inf"])
@pytest.mark.parametrize("method", ["lfmkd", "ffl"])
def test_a_temperature_that_means_nothing_is_refused(method: str, temperature: str) -> None:
    with pytest.raises(UsageError, match="temperature"):
        cohort_of(method, temperature=temperature)


@pytest.mark.parametrize("share", ["stage1", "stage2"])
def test_networks_of_unlike_depth_cannot_share_stages(share: str) -> None:
    """Their maps are of the same shape, but a shared stage would replace two blocks by one: peer 1 would
    not deploy.
    """
    with pytest.raises(UsageError, match="one architecture"):
        cohort_of("ffl", "resnet8,resnet14", share=share)


def test_sum_needs_equal_channels() -> None:
    with pytest.raises(UsageError, match="equal channels"):
        cohort_of(archs="resnet8,mobilenet_v3_small", size=32, fuse="sum")


# ---------------------------------------------------------------- unlike peers


@pytest.mark.parametrize(
    ("archs", "size", "taps"),
    [
        ("resnet8,resnet14", 32, [[0, 0], [1, 1]]),
        ("resnet18,mobilenet_v3_small", 64, [[1, 1], [2, 2]]),  # sides 8 and 4 in both
        ("resnet18,shufflenet_v2", 64, [[1, 0], [2, 1]]),  # shufflenet begins at side 8
        ("resnet8,resnet18", 32, [[0, 0], [1, 0]]),  # 32 and 16 against 8: the largest there is
        ("resnet18,resnet8", 32, [[1, 1], [2, 1]]),  # 4 and 2 against 32 and 16: the nearest larger
        ("resnet8,mobilenet_v3_small", 32, [[0, 0], [1, 0]]),
    ],
)
def test_unlike_peers_meet_where_their_maps_are_alike(archs: str, size: int, taps: list[list[int]]) -> None:
    peers = [create(arch, CLASSES) for arch in archs.split(",")]
    assert lfmkd.middle_taps(peers, size, "auto") == taps


@pytest.mark.parametrize(
    ("archs", "knowledge"),
    [
        ("resnet8,mobilenet_v3_small", "logits"),
        ("mobilenet_v3_small,resnet8", "maps"),
        ("resnet8,resnet18", "logits"),
    ],
)
def test_unlike_peers_train(archs: str, knowledge: str) -> None:
    cohort, graph = cohort_of(archs=archs, size=32, knowledge=knowledge)
    parts = parts_of(graph, cohort, images(8, 32, dtype=torch.float32), labels(8))
    assert all(part.isfinite() for part in parts.values())
    sum(parts.values()).backward()
    silent = [
        n
        for n, p in cohort.named_parameters()
        if p.grad is None or not p.grad.isfinite().all() or p.grad.abs().max() == 0
    ]
    assert not silent


@pytest.mark.parametrize("sides", [(8, 8), (8, 4), (8, 6), (7, 3, 5)])
def test_align_takes_the_smallest_side_and_keeps_the_mean_level(sides: tuple[int, ...]) -> None:
    maps = [torch.full((2, 3, s, s), float(i + 1), dtype=torch.float64) for i, s in enumerate(sides)]
    found = align(maps)
    assert {m.shape for m in found} == {(2, 3, min(sides), min(sides))}
    assert all((m - (i + 1)).abs().max() < 1e-12 for i, m in enumerate(found))
    x = images(2, 8)
    assert (align([x, x[:, :, :4, :4]])[0] - F.avg_pool2d(x, 2)).abs().max() < 1e-12


# ---------------------------------------------------------------- learning


#: Where a teacher that knows nothing would be believed more than the labels.
LABELS_FIRST = {"kd": {"labels": "1", "weight": "0.02"}, "codistillation": {"every": "5"}}


@pytest.mark.parametrize(
    "method",
    [pytest.param(name, marks=pytest.mark.slow if name == "lfmkd" else pytest.mark.wide) for name in METHODS],
)
def test_64_pictures_are_learnt_by_heart(method: str) -> None:
    cohort, graph = cohort_of(method, size=8, **LABELS_FIRST.get(method, {}))
    x, y = images(64, size=8, dtype=torch.float32), torch.arange(64) % CLASSES
    engine = Engine(cohort.train(), graph, "cpu", torch.float32, 0)
    optimizer = torch.optim.SGD(cohort.parameter_groups(0.0), lr=0.05, momentum=0.9, nesterov=True)
    order = torch.Generator().manual_seed(0)
    for step in range(60):
        chosen = torch.randperm(64, generator=order)[:32] if step < 45 else torch.arange(64)
        optimizer.zero_grad(set_to_none=True)
        parts = engine.step(
            given(cohort, x[chosen], y[chosen]) | {"index": chosen}, at(graph, min(1.0, step / 20))
        )
        optimizer.step()
        cohort.after_step(step)
    cross = {node: parts[f"ce_{node}"].item() / weight for node, weight in graph.labels.items()}
    assert max(cross.values()) < 0.05, cross


@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_same_seed_gives_the_same_losses(method: str) -> None:
    def losses(seed: int, steps: int = 6) -> list[dict[str, float]]:
        cohort, graph = cohort_of(method, size=8, seed=seed)
        engine = Engine(cohort.train(), graph, "cpu", torch.float32, 0)
        optimizer = torch.optim.SGD(cohort.parameter_groups(5e-4), lr=0.1, momentum=0.9, nesterov=True)
        found = []
        for step in range(steps):
            optimizer.zero_grad(set_to_none=True)
            parts = engine.step(given(cohort, images(8, 8, step, torch.float32), labels(8)), at(graph, 0.5))
            optimizer.step()
            cohort.after_step(step)
            found.append({name: part.item() for name, part in parts.items()})
        return found

    first = losses(0)
    assert first == losses(0)
    assert first[:1] != losses(1, 1)
