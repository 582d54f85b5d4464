"""Every architecture of the table keeps the contract of a backbone. A new row is tested by being there."""

from __future__ import annotations

import math

import pytest
import torch
import torchvision

from lfdeploy.errors import UsageError
from lfdeploy.models import ALIASES, ARCHITECTURES, architecture, create
from lfdeploy.models.backbone import Backbone

CLASSES = 7
# published: torchvision's table for 1,000 classes; the papers, or the code beside them, for 100
PARAMETERS = {
    "resnet8": 83_892,
    "resnet20": 278_324,
    "resnet32": 472_756,
    "resnet56": 861_620,
    "resnet110": 1_736_564,
    "resnet8x4": 1_233_540,
    "resnet32x4": 7_433_860,
    "resnet110_bottleneck": 1_170_868,
    "wrn16_2": 703_284,
    "wrn40_1": 569_780,
    "wrn40_2": 2_255_156,
    "wrn28_10": 36_536_884,
    "densenet40_12": 1_060_132,
    "densenet40_12_bc": 188_092,
    "vgg8_bn_cifar": 3_965_028,
    "vgg11_bn_cifar": 9_277_284,
    "vgg13_bn_cifar": 9_462_180,
    "vgg16_bn_cifar": 14_774_436,
    "vgg19_bn_cifar": 20_086_692,
    "vgg8_cifar": 3_962_084,
    "vgg19_cifar": 20_075_684,
    "mobilenet_v2_cifar": 2_351_972,
    "shufflenet_v2_cifar": 1_356_104,
    "efficientnet_lite0": 4_652_008,
}
HEAVY = 30_000_000  # weights of a network that meets the contract on the meta device alone
#: the first row of each family, and some that are built otherwise, are enough for `make test`
FIRST = {row.family: name for name, row in reversed(ARCHITECTURES.items())}
FAMILIES = [*FIRST.values(), "resnet8x4", "densenet40_12_bc", "vgg8_bn_cifar"]


def weights_of(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all parameters, for as many classes as the published number is of; RegNets compute
    when they are built.
    """
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        network = create(name, 100 if ARCHITECTURES[name].largest == 64 else 1000)
    return {n: tuple(p.shape) for n, p in network.named_parameters()}


def count(name: str) -> int:
    return sum(math.prod(shape) for shape in weights_of(name).values())


ROWS = [pytest.param(name, marks=() if name in FAMILIES else pytest.mark.wide) for name in ARCHITECTURES]


def side(name: str) -> int:
    """The smallest pictures on which every map still has a side of at least 2."""
    return 16 if ARCHITECTURES[name].largest == 64 else 64


def fresh(name: str, classes: int = CLASSES) -> Backbone:
    torch.manual_seed(0)
    with torch.device("meta" if count(name) > HEAVY else "cpu"):
        return create(name, classes)


@pytest.mark.parametrize("name", ROWS)
def test_contract(name: str) -> None:
    network, size = fresh(name), side(name)
    with next(network.parameters()).device:
        keeps_the_contract(network, name, size)


def equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    """To the bit; on the meta device, of one shape."""
    return one.shape == other.shape if one.is_meta else torch.equal(one, other)


def keeps_the_contract(network: Backbone, name: str, size: int) -> None:
    assert isinstance(network, Backbone)
    assert {n.split(".")[0] for n in network.state_dict()} == {"stem", "stages", "head"}
    assert architecture(name).about
    x = torch.randn(4, 3, size, size)

    # shapes() tells what features() gives, and leaves no trace
    before = {n: t.clone() for n, t in network.state_dict().items()}
    shapes = network.shapes(size)
    assert network.training
    assert all(equal(t, before[n]) for n, t in network.state_dict().items())
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
        assert equal(logits, network.head(maps[-1]))
        assert equal(network.last_map(x), maps[-1])
        start = network.stem(x)
        for skip, stage in enumerate(network.stages, 1):
            rest = network.features(start, skip=skip)
            assert len(rest) == len(maps) - (skip - 1)
            assert all(equal(a, b) for a, b in zip(rest, maps[skip - 1 :], strict=True))
            if skip > 1:  # what shrinks the map is the first thing in its stage
                assert next(stage.children())(start).shape[2] == sides[skip - 1]
            start = stage(start)

        # a picture's answer does not depend on its neighbours
        alone = network(x[2:3])
        assert alone.is_meta or (alone - logits[2:3]).abs().max() <= 1e-4 * max(
            1.0, logits.abs().max().item()
        )

    # every parameter learns
    if x.is_meta:
        return
    network.train()
    torch.nn.functional.cross_entropy(network(x), torch.arange(4)).backward()
    silent = [
        n
        for n, p in network.named_parameters()
        if p.grad is None or not p.grad.isfinite().all() or p.grad.abs().max() == 0
    ]
    assert not silent


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_parameters_are_the_published_ones(name: str) -> None:
    assert count(name) == PARAMETERS[name]


@pytest.mark.parametrize("name", sorted(set(ARCHITECTURES) & set(torchvision.models.list_models())))
def test_parameters_are_torchvisions_own(name: str) -> None:
    weights = torchvision.models.get_model_weights(name)
    assert count(name) == next(iter(weights)).meta["num_params"]


@pytest.mark.parametrize("name", ROWS)
def test_the_number_of_classes_touches_the_last_layer_alone(name: str) -> None:
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        shapes = [
            {n: tuple(p.shape) for n, p in create(name, classes).named_parameters()} for classes in (2, 100)
        ]
    assert list(shapes[0]) == list(shapes[1])
    changed = {n: (shapes[0][n], shapes[1][n]) for n in shapes[0] if shapes[0][n] != shapes[1][n]}
    assert [n.split(".")[0] for n in changed] == ["head", "head"]
    assert {(a[0], b[0]) for a, b in changed.values()} == {(2, 100)}


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_a_shorter_name_is_the_same_row(alias: str, name: str) -> None:
    with torch.device("meta"):
        assert create(alias, 3).arch == name
    assert alias not in ARCHITECTURES


def test_two_networks_of_a_name_begin_apart_and_a_seed_repeats() -> None:
    torch.manual_seed(0)
    a, b = create("resnet8", 3), create("resnet8", 3)
    assert not torch.equal(a.stem[0].weight, b.stem[0].weight)
    assert torch.equal(fresh("resnet8").stem[0].weight, fresh("resnet8").stem[0].weight)


def test_unknown_name_is_guessed_at() -> None:
    with pytest.raises(UsageError, match="Did you mean 'resnet32'"):
        create("resnet-32", 10)


SEQUENCES = [
    "resnet10t",
    "convnext_atto",
    "mobilenetv3_small_050",
    "efficientnet_lite0",
    "densenet121",
    "regnetx_002",
]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SEQUENCES[2:] else ()) for n in SEQUENCES]
)
def test_networks_of_timm_are_cut_whole(name: str) -> None:
    """Its own forward pass ends in the map of our last stage."""
    import timm

    torch.manual_seed(0)
    network = create(f"timm:{name}", CLASSES)
    torch.manual_seed(0)
    own = timm.create_model(name, pretrained=False, features_only=True).eval()
    assert network.arch == f"timm:{name}"
    x = torch.randn(2, 3, 128, 128)
    with torch.no_grad():
        assert torch.equal(network.eval().last_map(x), own(x)[-1])
    # timm begins with blocks that add nothing, so that what is in them cannot learn yet
    for norm in network.modules():
        if isinstance(norm, torch.nn.BatchNorm2d) and not norm.weight.any():
            torch.nn.init.ones_(norm.weight)
    keeps_the_contract(network.train(), network.arch, 128)


UNFIT = {"swin_tiny_patch4_window7_224": "cannot be cut", "resnet10": "Did you mean 'timm:resnet10t'"}


@pytest.mark.parametrize(("name", "said"), UNFIT.items())
def test_what_timm_has_not_or_cannot_cut_is_one_line(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        create(f"timm:{name}", CLASSES)


RESIDUAL = {"resnet8": True, "resnet18": True, "resnet50": True, "wrn16_2": True, "mobilenet_v3_small": False}


@pytest.mark.parametrize(("arch", "residual"), RESIDUAL.items())
def test_residual_networks_say_so(arch: str, residual: bool) -> None:
    """Auxiliary heads continue them with residual blocks."""
    network = create(arch, 3)
    assert (network.residual, network.arch) == (residual, arch)
