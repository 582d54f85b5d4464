"""What trained weights are given before the first step: fitted heads, a fusion that begins as the mean, parts
that stay as they are.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from lfdeploy.data import Split
from lfdeploy.models import create
from lfdeploy.models.backbone import Backbone
from training.augment import normalise
from training.cohort import Cohort
from training.engine import Engine
from training.heads import STRENGTH, calibrated, fit_heads, last_linear
from training.losses import LossGraph
from training.methods import METHODS
from training.methods.method import Given
from training.parts import Copy, Trunk

SIDE, CLASSES = 16, 3
MEAN, STD = torch.tensor([0.5] * 3), torch.tensor([0.25] * 3)
WITHOUT_TEACHER = [name for name, row in METHODS.items() if not row.teachers]


def pictures(count: int = 60) -> Split:
    """Three classes told apart by colour, with noise."""
    random = np.random.default_rng(0)
    labels = np.arange(count) % CLASSES
    colours = 60 + 60 * np.eye(CLASSES, dtype=np.int64)[labels][:, None, None, :]
    pixels = (colours + random.integers(-60, 60, (count, SIDE, SIDE, 3))).clip(0, 255).astype(np.uint8)
    return Split(pixels, labels, "digest")


def started(arch: str, count: int = 2) -> list[Backbone]:
    """Networks with the same stem and stages, whose statistics are those of the pictures, and own heads."""
    torch.manual_seed(0)
    networks = [create(arch, CLASSES) for _ in range(count)]
    networks[0].train()
    for _ in range(30):
        networks[0](images(pictures()))
    body = {n: t for n, t in networks[0].state_dict().items() if not n.startswith("head.")}
    for network in networks[1:]:
        network.load_state_dict(body, strict=False)
    return networks


def images(split: Split) -> Tensor:
    return normalise(torch.from_numpy(np.asarray(split.images)), MEAN, STD)


def cohort_of(method: str, peers: list[Backbone], frozen: int = 0, views: bool = False) -> Cohort:
    row = METHODS[method]
    return row.build(Given(peers, CLASSES, SIDE, row.options(), [], 60, frozen, views))


def engine_of(cohort: Cohort, threads: int = 0) -> Engine:
    return Engine(cohort, LossGraph({}), "cpu", torch.float32, threads)


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize(
    "arch",
    ["resnet8", *(pytest.param(a, marks=pytest.mark.slow) for a in ("shufflenet_v2", "mobilenet_v3_small"))],
)
def test_heads_are_logistic_regression_on_what_the_network_sees(arch: str, threads: int) -> None:
    split, peers = pictures(), started(arch)
    cohort = cohort_of("independent", peers)
    engine = engine_of(cohort, threads)
    fit_heads(engine, split, MEAN, STD, [peers[0].arch])
    engine.close()
    name = last_linear(peers[0].head)
    assert name is not None
    layer = peers[0].head.get_submodule(name)
    read: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda module, given: read.append(given[0]))
    with torch.inference_mode():
        logits = peers[0].eval()(images(split))
    hook.remove()
    seen = read[0].numpy()
    expected = LogisticRegression(C=STRENGTH / np.square(seen).mean(), max_iter=500).fit(seen, split.labels)
    assert np.abs(logits.numpy() - expected.decision_function(seen)).max() < 0.02


def test_two_classes_get_a_row_each() -> None:
    first = np.flatnonzero(pictures().labels < 2)
    two = Split(pictures().images[first], pictures().labels[first], "digest")
    torch.manual_seed(0)
    network, row = create("resnet8", 2), METHODS["independent"]
    cohort = row.build(Given([network], 2, SIDE, row.options()))
    fit_heads(engine_of(cohort), two, MEAN, STD, ["resnet8"])
    with torch.inference_mode():
        answers = network.eval()(images(two)).argmax(1).numpy()
    assert (answers == two.labels).mean() > 0.7


@pytest.mark.parametrize("operator", ["dwpw", "pw", "sum"])
@pytest.mark.parametrize("count", [2, 3])
def test_the_fusion_begins_as_the_mean_of_the_maps(operator: str, count: int) -> None:
    row, peers = METHODS["lfmkd"], started("resnet8", count)
    options = row.options(fuse=operator, taps="none")
    cohort = row.build(Given(peers, CLASSES, SIDE, options))
    fit_heads(engine_of(cohort), pictures(), MEAN, STD, ["resnet8"])
    (part,) = calibrated(cohort)
    cohort.eval()
    x = images(pictures(12))
    with torch.inference_mode():
        maps = [peer.last_map(x) for peer in peers]
        fused = part.head.fusion(maps)
    assert torch.allclose(fused, torch.stack(maps).mean(0).clamp_min(0), atol=1e-4)
    with torch.inference_mode():
        answers = cohort.see(images(pictures()))
    right = torch.from_numpy(pictures().labels)
    peer0, whole = ((answers[name].argmax(1) == right).float().mean() for name in ("peer0", "fused"))
    assert float(whole) >= float(peer0) - 0.05
    assert float(peer0) > 0.6


def test_what_cannot_begin_as_a_mean_is_left_alone() -> None:
    unlike = [create("resnet8", CLASSES), create("resnet14", CLASSES)]
    assert calibrated(cohort_of("ffl", unlike)) == []
    assert calibrated(cohort_of("pcl", started("resnet8", 3))) == []  # side by side, nothing is averaged
    assert last_linear(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Flatten())) is None


FIRST = ("lfmkd", "one", "codistillation")


@pytest.mark.parametrize("views", [False, pytest.param(True, marks=pytest.mark.wide)])
@pytest.mark.parametrize(
    "method", [pytest.param(m, marks=() if m in FIRST else pytest.mark.wide) for m in WITHOUT_TEACHER]
)
def test_frozen_parts_get_no_gradient_and_keep_their_statistics(method: str, views: bool) -> None:
    """For every method, two threads as one; and what is computed is what the networks compute."""
    row = METHODS[method]
    found = []
    for threads in (0, 2):
        torch.manual_seed(1)
        cohort = cohort_of(method, started("resnet8", max(row.peers, row.least)), 2, views).double().train()
        graph = row.graph(cohort, row.options())
        before = {n: t.clone() for n, t in cohort.state_dict().items()}
        engine = Engine(cohort, graph, "cpu", torch.float32, threads)
        x = images(pictures(12)).double()
        given = {f"view{i}": x + 0.01 * i for i in range(cohort.views)}
        given |= {"labels": torch.from_numpy(pictures(12).labels), "index": torch.arange(12)}
        torch.manual_seed(2)
        engine.step(given, graph.ramps(5, 10))
        engine.close()
        held = [f"{peer.name}.network.{part}" for peer in cohort.peers for part in ("stem.", "stages.0.")]
        after = cohort.state_dict()
        for name in [name for name in after if name.startswith(tuple(held))]:
            assert torch.equal(after[name], before[name]), name
        gradients = {n: p.grad for n, p in cohort.named_parameters() if p.grad is not None}
        assert not [name for name in gradients if name.startswith(tuple(held))]
        assert [name for name in gradients if ".stages.1." in name]
        found.append(gradients)
        nodes = cohort.eval().see(x)
        for peer in cohort.peers:
            assert torch.allclose(nodes[peer.name], peer.network(x), atol=1e-9)
    assert all(torch.allclose(g, found[1][name], atol=1e-10) for name, g in found[0].items())


def test_what_is_frozen_is_computed_once_for_peers_that_see_the_same() -> None:
    assert any(isinstance(part, Trunk) for part in cohort_of("dml", started("resnet8"), 2).parts.values())
    own = cohort_of("dml", started("resnet8"), 2, views=True)
    assert not any(isinstance(part, Trunk) for part in own.parts.values())
    assert own.views == 2


def test_all_can_be_frozen_but_the_heads() -> None:
    peers = started("resnet8")
    cohort = cohort_of("lfmkd", peers, 1 + len(peers[0].stages))
    learning = [name for name, parameter in cohort.named_parameters() if parameter.requires_grad]
    assert {name.split(".")[0] for name in learning} == {"peer0", "peer1", "fused"}
    assert all(".head." in name for name in learning)


def test_kept_statistics_stay_though_weights_learn() -> None:
    (peer,) = cohort_of("independent", started("resnet8", 1)).peers
    for kept in (True, False):
        peer.keeps_statistics = kept
        before = {n: t.clone() for n, t in peer.state_dict().items() if n.endswith("running_mean")}
        peer.train()(images(pictures(12)))
        moved = [name for name, tensor in before.items() if not torch.equal(tensor, peer.state_dict()[name])]
        assert bool(moved) is not kept


def test_peers_with_fitted_heads_do_not_stay_one_network() -> None:
    """Without dropout nothing else would part them: they begin alike and see the same pictures."""
    peers = started("resnet8")
    fit_heads(engine_of(cohort_of("dml", peers)), pictures(), MEAN, STD, ["resnet8"])
    one, other = (peer.head.get_submodule(str(last_linear(peer.head))) for peer in peers)
    assert not torch.equal(one.weight, other.weight)  # type: ignore[arg-type]


def test_copies_begin_with_the_fitted_heads() -> None:
    peers = started("resnet8")
    cohort = cohort_of("codistillation", peers, 2)
    fit_heads(engine_of(cohort), pictures(), MEAN, STD, ["resnet8"])
    copies = [part for part in cohort.parts.values() if isinstance(part, Copy)]
    assert len(copies) == 2
    for copied, peer in zip(copies, peers, strict=True):
        assert all(torch.equal(t, copied.network.state_dict()[n]) for n, t in peer.state_dict().items())


def test_auxiliary_heads_of_independent_peers_with_a_frozen_trunk() -> None:
    row, peers = METHODS["independent"], started("resnet8")
    cohort = row.build(Given(peers, CLASSES, SIDE, row.options(heads="lite"), frozen=2))
    assert [name.split("_")[0] for name in cohort.watched] == ["peer0", "peer1"]
