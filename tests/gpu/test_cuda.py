"""What only a GPU can prove. Deselected by default; `.ci/gpu` runs them."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lfdeploy.backends import BACKENDS, Source
from lfdeploy.run import Run

pytestmark = pytest.mark.gpu


def test_the_module_answers_alike_on_cuda(tiny_run: Run) -> None:
    pixels = tiny_run.data().test.images[:64]
    manifest = {"target": "fused", "input": {"height": 16, "width": 16}, "batch": {"max": 64}}
    source = Source(tiny_run.weights, manifest, tiny_run)
    here, there = (BACKENDS["pytorch"].open(source, device)(pixels)[0] for device in ("cpu", "cuda"))
    assert np.abs(here - there).max() <= 2e-5 * np.abs(here).max()


def test_the_module_in_a_cuda_graph_answers_as_eager(tiny_run: Run) -> None:
    from export.bench.cuda_graph import GraphSession

    pixels = tiny_run.data().test.images[:64]
    manifest = {"target": "fused", "input": {"height": 16, "width": 16}, "batch": {"max": 64}}
    source = Source(tiny_run.weights, manifest, tiny_run)
    eager, graph = BACKENDS["pytorch"].open(source, "cuda"), GraphSession(source, "cuda")
    for batch in (
        pixels,
        pixels[::-1].copy(),
        pixels[:7],
        pixels,
    ):  # replayed on other pictures, and another size between
        wanted = eager(batch)[0]
        assert np.abs(graph(batch)[0] - wanted).max() <= 2e-5 * np.abs(wanted).max()
    assert sorted(graph.recorded) == [7, 64]


def test_onnx_on_cuda_really_runs_there(tiny_run: Run) -> None:
    from lfdeploy import open_artifact

    path = tiny_run.artifacts / "fused-onnx-fp32"
    pixels = tiny_run.data().test.images[:64]
    cuda, cpu = open_artifact(path, device="cuda"), open_artifact(path, device="cpu")
    assert cuda.session.device == "cuda"
    logits = cpu.run(pixels)[0]
    assert np.abs(cuda.run(pixels)[0] - logits).max() <= 2e-5 * np.abs(logits).max()


def test_training_on_cuda_learns(tmp_path_factory: pytest.TempPathFactory) -> None:
    from lfdeploy.config import TrainConfig
    from training import train

    run = train(TrainConfig(device="cuda", epochs=6), runs=tmp_path_factory.mktemp("cuda"))
    summary = run.read("summary.json")
    assert summary["device"] == "cuda"
    assert summary["test"]["fused"] > 80
    assert torch.cuda.is_available()


@pytest.mark.parametrize(
    "settings",
    [{"precision": "fp32"}, {"precision": "bf16"}, {"graph": True}, {"deterministic": True}],
    ids=["fp32", "bf16", "graph", "deterministic"],
)
def test_training_on_cuda_gives_the_same_bits_again(tmp_path: Path, settings: dict[str, Any]) -> None:
    from lfdeploy.config import TrainConfig
    from training import train

    config = TrainConfig(device="cuda", epochs=1, arch="resnet8", **settings)
    one, other = (train(config, name, tmp_path).tensors() for name in ("one", "other"))
    assert [name for name, tensor in one.items() if not torch.equal(tensor, other[name])] == []


def test_a_recorded_training_goes_on_as_if_it_had_not_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops in its second epoch, and ends with the bits of one that did not."""
    from lfdeploy.config import TrainConfig
    from lfdeploy.errors import Interrupted
    from training import metrics, train

    config = TrainConfig(device="cuda", epochs=2, arch="resnet8", graph=True)
    whole, add, steps = train(config, "whole", tmp_path).tensors(), metrics.add, []

    def stopping(*given: Any) -> None:
        steps.append(1)
        if len(steps) == 15:
            signal.raise_signal(signal.SIGINT)
        add(*given)

    with monkeypatch.context() as patch:
        patch.setattr(metrics, "add", stopping)
        with pytest.raises(Interrupted):
            train(config, "stopped", tmp_path)
    again = train(config, resume=Run(tmp_path / "stopped")).tensors()
    assert [name for name, tensor in whole.items() if not torch.equal(tensor, again[name])] == []


def test_a_program_on_cuda_really_runs_there(tiny_run: Run) -> None:
    from export import export
    from lfdeploy import open_artifact
    from lfdeploy.config import ExportConfig

    artifact = export(ExportConfig(fused=True, format="torch"), tiny_run)[0]
    assert artifact.manifest["parity"]["verdict"] == "pass"
    pixels = tiny_run.data().test.images[:64]
    cuda, cpu = open_artifact(artifact.path, device="cuda"), open_artifact(artifact.path, device="cpu")
    assert {buffer.device.type for buffer in cuda.session.module.buffers()} == {"cuda"}
    logits = cpu.run(pixels)[0]
    assert np.abs(cuda.run(pixels)[0] - logits).max() <= 2e-5 * np.abs(logits).max()
