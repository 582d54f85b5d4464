"""Dropout whose random numbers are the step's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.ops import StochasticDepth

from lfdeploy.models import create
from training.dropout import Drop, at_step, with_own_random


def test_the_share_is_zeroed_and_the_mean_kept() -> None:
    drop, x = Drop(0.3, 1), torch.ones(200, 500)
    seen = drop(x)
    assert abs(float((seen == 0).float().mean()) - 0.3) < 0.01
    assert abs(float(seen.mean()) - 1) < 0.02
    assert torch.equal(drop.eval()(x), x)


def test_depth_drops_whole_pictures() -> None:
    seen = Drop(0.5, 1, rows=True)(torch.ones(64, 3, 4, 4))
    assert all(len(picture.unique()) == 1 for picture in seen)
    assert set(seen.unique().tolist()) == {0.0, 2.0}


def test_a_step_draws_the_same_in_any_order_and_another_step_something_else() -> None:
    network = nn.Sequential(nn.Dropout(0.5), nn.Sequential(StochasticDepth(0.5, "row"), nn.Dropout(0.5)))
    with_own_random(network, 3)
    places = [module for module in network.modules() if isinstance(module, Drop)]
    assert [place.rows for place in places] == [False, True, False]
    x = torch.ones(64, 8)
    at_step(network, 5)
    forward = [place(x) for place in places]
    backward = [place(x) for place in reversed(places)][::-1]
    assert all(torch.equal(a, b) for a, b in zip(forward, backward, strict=True))
    assert not torch.equal(forward[0], forward[2])
    at_step(network, 6)
    assert not torch.equal(forward[0], places[0](x))


@pytest.mark.parametrize("arch", ["efficientnet_lite0", "efficientnet_b0", "mobilenet_v2", "convnext_tiny"])
def test_nothing_draws_from_torchs_generator_any_more(arch: str) -> None:
    network = create(arch, 3)
    with_own_random(network, 0)
    network.train()
    before = torch.get_rng_state()
    network(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(before, torch.get_rng_state())
    assert any(isinstance(module, Drop) and module.p > 0 for module in network.modules())
