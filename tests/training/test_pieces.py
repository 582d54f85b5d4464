"""Batches in pieces, and fp16 with a scaled loss."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import at, built, enough, given
from torch import nn

from lfdeploy.config import TrainConfig
from lfdeploy.errors import Interrupted, UsageError
from lfdeploy.run import Run
from training import checkpoint, train
from training.dropout import with_own_random
from training.engine import Engine
from training.methods import METHODS
from training.pieces import gradients

ALONE = [
    name if name in ("lfmkd", "kdcl") else pytest.param(name, marks=pytest.mark.slow)
    for name, row in METHODS.items()
    if not row.looks_across
]
SIZE, CLASSES, BATCH = 16, 10, 12


def engine_of(method: str) -> Engine:
    """Of two resnet8 in float64, whose BatchNorms do not look at the batch."""
    torch.manual_seed(0)
    row = METHODS[method]
    options = row.options()
    cohort = built(method, ["resnet8"] * enough(method), CLASSES, SIZE, options).double().train()
    for module in cohort.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    return Engine(cohort, row.graph(cohort, options), "cpu", torch.float32, 0)


@pytest.mark.parametrize("method", ALONE)
def test_pieces_have_the_gradient_of_the_whole(method: str) -> None:
    """Also what is reported: the parts of the loss, and top-1 and cross-entropy of every network."""
    engine = engine_of(method)
    draw = torch.Generator().manual_seed(1)
    images = torch.randn(BATCH, 3, SIZE, SIZE, generator=draw).double()
    nodes = given(engine.cohort, images, torch.arange(BATCH) % CLASSES)
    ramps = at(engine.graph, 1.0)
    found: list[tuple[dict[str, Any], dict[str, Any], list[Any]]] = []
    for pieces in (1, 3):
        engine.cohort.zero_grad(set_to_none=True)
        parts = gradients(engine, nodes, ramps, pieces, 0)
        found.append((parts, dict(engine.seen), [p.grad for p in engine.cohort.parameters()]))
    for whole, cut in zip(found[0][:2], found[1][:2], strict=True):
        assert whole.keys() == cut.keys()
        for name, value in whole.items():
            torch.testing.assert_close(cut[name], value, rtol=1e-9, atol=1e-12, check_dtype=False)
    torch.testing.assert_close(found[1][2], found[0][2], rtol=1e-8, atol=1e-11)


def test_dropout_draws_anew_for_each_piece() -> None:
    engine = engine_of("independent")
    peer: Any = engine.cohort.peers[0]
    peer.network.head.insert(0, nn.Dropout(0.5))
    with_own_random(peer.network, 0)
    seen: list[torch.Tensor] = []
    drop = peer.network.head[0]
    drop.register_forward_hook(lambda module, read, gave: seen.append(gave == 0))
    image = torch.randn(1, 3, SIZE, SIZE).double().expand(4, 3, SIZE, SIZE)
    for place in (0, 1):
        nodes = given(engine.cohort, image, torch.zeros(4, dtype=torch.int64))
        gradients(engine, nodes, at(engine.graph, 1.0), 2, place)
    assert len(seen) == 4 and len({tuple(mask.flatten().tolist()) for mask in seen}) == 4


@pytest.fixture
def config(coloured_npz: Path) -> TrainConfig:
    return TrainConfig(
        data=str(coloured_npz), image_size=16, arch="resnet8", epochs=2, batch_size=16, device="cpu"
    )


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"accumulate": 4, "precision": "fp32"}, id="pieces", marks=pytest.mark.slow),
        pytest.param({"precision": "fp16"}, id="fp16", marks=pytest.mark.slow),
    ],
)
def test_it_is_resumed_to_the_same_bits(
    settings: dict[str, Any], config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, **settings)
    whole = train(config, "whole", tmp_path)
    real = checkpoint.save

    def save_and_stop(*given: Any) -> None:
        real(*given)
        raise Interrupted("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", save_and_stop)
        with pytest.raises(Interrupted):
            train(config, "cut", tmp_path)
    state = torch.load(tmp_path / "cut" / "checkpoint" / "last.pt", weights_only=True)
    assert bool(state["scaler"]) == (config.precision == "fp16")
    train(config, resume=Run(tmp_path / "cut"))
    assert (tmp_path / "cut" / "model.safetensors").read_bytes() == whole.weights.read_bytes()
    losses = [json.loads(line)["loss"] for line in (whole.path / "metrics.jsonl").read_text().splitlines()]
    assert losses[1] < losses[0]


def test_a_step_that_overflows_leaves_the_weights(config: TrainConfig, tmp_path: Path) -> None:
    """The scale falls by half, and the next steps go on."""
    from training.loop import prepare
    from training.update import update

    setup = prepare(replace(config, precision="fp16"), "run", tmp_path, None, [], 0.0)
    setup.scaler.load_state_dict(setup.scaler.state_dict() | {"scale": 2.0**100})
    ramps = setup.engine.graph.ramps(0, 1)
    batch = next(iter(setup.batches.epoch(0))).given(setup.mean, setup.std)
    before = [parameter.clone() for parameter in setup.engine.cohort.parameters()]
    update(setup, batch, ramps, 0, [])
    assert all(torch.equal(a, b) for a, b in zip(before, setup.engine.cohort.parameters(), strict=True))
    assert setup.scaler.get_scale() == 2.0**99
    setup.scaler.load_state_dict(setup.scaler.state_dict() | {"scale": 2.0**8})
    update(setup, batch, ramps, 1, [])
    assert not all(torch.equal(a, b) for a, b in zip(before, setup.engine.cohort.parameters(), strict=True))
    setup.engine.close()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"accumulate": 3}, "--accumulate 3 does not divide a batch of 16"),
        ({"accumulate": 0}, "--accumulate is 0"),
        ({"accumulate": 2, "method": "crd"}, "crd"),
    ],
)
def test_what_cannot_be_cut_is_one_line(
    settings: dict[str, Any], words: str, config: TrainConfig, tmp_path: Path
) -> None:
    if settings.get("method") == "crd":
        train(config, "teacher", tmp_path)
        settings = settings | {"teacher": "teacher", "peers": 1}
    with pytest.raises(UsageError, match=words):
        train(replace(config, **settings), "run", tmp_path)
    assert not (tmp_path / "run").exists()
