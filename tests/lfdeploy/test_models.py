"""Every architecture of the table keeps the contract of a backbone. A new row is tested by being there."""

from __future__ import annotations

import pytest
import torch

from lfdeploy.errors import UsageError
from lfdeploy.models import ARCHITECTURES, create
from lfdeploy.models.backbone import Backbone

CLASSES = 7
PARAMETERS = {  # published, with 1,000 classes for torchvision's and 100 for the others
    "resnet8": 83_892, "resnet20": 278_324, "resnet32": 472_756, "resnet56": 861_620, "resnet110": 1_736_564,
    "resnet18": 11_689_512, "resnet34": 21_797_672, "resnet50": 25_557_032,
    "mobilenet_v3_small": 2_542_856, "mobilenet_v3_large": 5_483_032, "efficientnet_b0": 5_288_548,
    "shufflenet_v2": 2_278_604, "convnext_tiny": 28_589_128,
    "resnext50": 25_028_904, "wide_resnet50": 68_883_240, "densenet121": 7_978_856,
    "mnasnet": 4_383_312, "mobilenet_v2": 3_504_872,
}  # fmt: skip


def side(name: str) -> int:
    """The smallest pictures on which every map still has a side of at least 2."""
    return 16 if ARCHITECTURES[name].largest == 64 else 64


def fresh(name: str, classes: int = CLASSES) -> Backbone:
    torch.manual_seed(0)
    return create(name, classes)


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_contract(name: str) -> None:
    network, size = fresh(name), side(name)
    assert isinstance(network, Backbone)
    assert {n.split(".")[0] for n in network.state_dict()} == {"stem", "stages", "head"}
    assert ARCHITECTURES[name].about
    x = torch.randn(4, 3, size, size)

    # shapes() tells what features() gives, and leaves no trace
    before = {n: t.clone() for n, t in network.state_dict().items()}
    shapes = network.shapes(size)
    assert network.training
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())
    network.eval()
    with torch.no_grad():
        maps = network.features(x)
        logits = network(x)
        assert [(m.shape[1], m.shape[2]) for m in maps] == shapes
        assert all(m.shape[0] == 4 and m.shape[2] == m.shape[3] for m in maps)
        assert len(shapes) == len(network.stages) >= 3
        sides = [s for _, s in shapes]
        assert sides == sorted(set(sides), reverse=True)  # each stage after the first shrinks the map

        # forward is the head of the last map; a later start gives the same
        assert logits.shape == (4, CLASSES)
        assert torch.equal(logits, network.head(maps[-1]))
        assert torch.equal(network.last_map(x), maps[-1])
        start = network.stem(x)
        for skip, stage in enumerate(network.stages, 1):
            rest = network.features(start, skip=skip)
            assert len(rest) == len(maps) - (skip - 1)
            assert all(torch.equal(a, b) for a, b in zip(rest, maps[skip - 1 :], strict=True))
            if skip > 1:  # what shrinks the map is the first thing in its stage
                assert next(stage.children())(start).shape[2] == sides[skip - 1]
            start = stage(start)

        # a picture's answer does not depend on its neighbours
        alone = network(x[2:3])
        assert (alone - logits[2:3]).abs().max() <= 1e-4 * max(1.0, logits.abs().max().item())

    # every parameter learns
    network.train()
    torch.nn.functional.cross_entropy(network(x), torch.arange(4)).backward()
    silent = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all() or p.grad.abs().max() == 0]
    assert not silent


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_parameters_are_the_published_ones(name: str) -> None:
    with torch.device("meta"):
        network = create(name, 100 if ARCHITECTURES[name].largest == 64 else 1000)
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_the_number_of_classes_touches_the_last_layer_alone(name: str) -> None:
    with torch.device("meta"):
        shapes = [{n: tuple(p.shape) for n, p in create(name, classes).named_parameters()} for classes in (2, 100)]
    assert list(shapes[0]) == list(shapes[1])
    changed = {n: (shapes[0][n], shapes[1][n]) for n in shapes[0] if shapes[0][n] != shapes[1][n]}
    assert [n.split(".")[0] for n in changed] == ["head", "head"]
    assert {(a[0], b[0]) for a, b in changed.values()} == {(2, 100)}


def test_two_networks_of_a_name_begin_apart_and_a_seed_repeats() -> None:
    torch.manual_seed(0)
    a, b = create("resnet8", 3), create("resnet8", 3)
    assert not torch.equal(a.stem[0].weight, b.stem[0].weight)
    assert torch.equal(fresh("resnet8").stem[0].weight, fresh("resnet8").stem[0].weight)


def test_unknown_name_is_guessed_at() -> None:
    with pytest.raises(UsageError, match="Did you mean 'resnet32'"):
        create("resnet-32", 10)


@pytest.mark.parametrize(("arch", "residual"), [("resnet8", True), ("resnet18", True), ("resnet50", True), ("mobilenet_v3_small", False)])
def test_residual_networks_say_so(arch: str, residual: bool) -> None:
    """Auxiliary heads continue them with residual blocks."""
    network = create(arch, 3)
    assert (network.residual, network.arch) == (residual, arch)
