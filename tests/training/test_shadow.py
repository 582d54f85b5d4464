"""All weights cast at once are the weights that autocast casts one by one."""

from __future__ import annotations

import pytest
import torch
from builders import at, built, given

from training.engine import Engine
from training.methods import METHODS
from training.shadow import Shadow


def engine_of(method: str, dtype: torch.dtype) -> Engine:
    torch.manual_seed(0)
    row = METHODS[method]
    cohort = built(method, ["resnet8"] * 2, 10, 16, row.options()).train()
    return Engine(cohort, row.graph(cohort, row.options()), "cpu", dtype, 0, whole=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
@pytest.mark.parametrize("method", ["lfmkd", "cl"])  # cl: networks that share layers
def test_the_same_gradients_and_statistics(method: str, dtype: torch.dtype) -> None:
    """To the bit; where networks share a layer, its gradients are summed in the shorter type."""
    found = []
    for shadowed in (False, True):
        engine = engine_of(method, dtype)
        images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
        nodes, ramps = given(engine.cohort, images, torch.arange(8) % 10), at(engine.graph, 0.5)
        weights = {name: id(weight) for name, weight in engine.cohort.named_parameters()}
        if shadowed:
            shadow = Shadow(engine.cohort, dtype)
            assert bool(shadow.copies) == (dtype == torch.bfloat16)
            with shadow.instead():
                parts = engine.step(nodes, ramps)
        else:
            parts = engine.step(nodes, ramps)
        assert {name: id(weight) for name, weight in engine.cohort.named_parameters()} == weights
        gradients = {name: p.grad for name, p in engine.cohort.named_parameters()}
        found.append((parts, gradients, dict(engine.cohort.named_buffers())))
    for kind in range(3):
        assert found[0][kind].keys() == found[1][kind].keys()
        for name, value in found[0][kind].items():
            other = found[1][kind][name]
            assert (value is None) == (other is None)
            assert value is None or torch.equal(value, other), name


def test_weights_are_followed_and_what_cannot_learn_gets_no_gradient() -> None:
    engine = engine_of("ffl", torch.bfloat16)
    layer = engine.cohort.networks[0].stem[0]
    layer.weight.requires_grad_(False)
    shadow = Shadow(engine.cohort, torch.bfloat16)
    with torch.no_grad():
        layer.weight.fill_(0.5)
    with shadow.instead():
        assert layer.weight.dtype == torch.bfloat16
        assert (layer.weight == 0.5).all()
    assert layer.weight.grad is None
    with pytest.raises(RuntimeError, match="it failed"), shadow.instead():
        raise RuntimeError("it failed")
    assert layer.weight.dtype == torch.float32
