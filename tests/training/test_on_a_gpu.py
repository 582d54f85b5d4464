"""What training does on a GPU, on tensors without numbers: no waiting in a step, few copies when saved."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from builders import built, enough
from fake_cuda import fake_cuda
from torch import nn

import training.loop
from training import checkpoint
from training.cohort import Cohort
from training.fusion import CBAM
from training.losses import LossGraph, evaluate_graph
from training.methods import METHODS
from training.precision import exact_fp32, has_bf16, settle, shorter


def cohort_on_cuda(method: str) -> tuple[Cohort, LossGraph]:
    row = METHODS[method]
    options = row.options()
    with torch.device("cuda"):
        cohort = built(method, ["resnet8"] * enough(method), 10, 32, options)
    return cohort.train(), row.graph(cohort, options)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_step_makes_the_host_wait_for_nothing(method: str) -> None:
    with fake_cuda() as traffic:
        cohort, graph = cohort_on_cuda(method)
        images = torch.empty(16, 3, 32, 32, device="cuda")
        labels = torch.zeros(16, dtype=torch.int64, device="cuda")
        begun = cohort.views_of(images) | {"labels": labels, "index": torch.zeros_like(labels)}
        ramps = graph.ramps(0, 1, "cuda")
        traffic.copies.clear()
        parts = evaluate_graph(graph, cohort(begun), ramps)
        torch.stack(list(parts.values())).sum()
    assert traffic.operators["convolution"] > 10
    assert not traffic.copies


def test_a_checkpoint_comes_from_the_gpu_in_one_copy_per_dtype() -> None:
    with fake_cuda() as traffic:
        cohort, _ = cohort_on_cuda("lfmkd")
        optimizer = torch.optim.SGD(cohort.parameters(), lr=0.1, momentum=0.9)
        for parameter in cohort.parameters():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        state = {"model": cohort.state_dict(), "optimizer": optimizer.state_dict()}
        tensors = sum(1 for _ in checkpoint._tensors(state))
        traffic.copies.clear()
        saved = checkpoint.on_cpu(state)
        assert {tensor.device.type for tensor in checkpoint._tensors(saved)} == {"cpu"}
    assert tensors > 200
    assert dict(traffic.copies) == {"cuda to cpu": 2}  # float32, and int64 of BatchNorm's counters


def test_copies_have_the_numbers_the_layout_and_memory_of_their_own() -> None:
    """The same function on real tensors."""
    tensors = [
        torch.randn(4, 3, 5, 5).contiguous(memory_format=torch.channels_last),
        torch.tensor(7),
        torch.randn(3, 2, requires_grad=True),
        torch.arange(6).reshape(2, 3),
    ]
    copies = checkpoint._copied(tensors)
    for tensor, copied in zip(tensors, copies, strict=True):
        assert torch.equal(tensor, copied)
        assert (tensor.dtype, tensor.stride()) == (copied.dtype, copied.stride())
        assert not copied.requires_grad
        assert copied.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    state = OrderedDict(a=tensors[0], b={"c": [tensors[1], 5, "text"]})
    state._metadata = {"version": 1}  # type: ignore[attr-defined]
    assert checkpoint.on_cpu(state) is state  # the bytes of a checkpoint made on a CPU do not change
    again = checkpoint._with(state, iter(copies))
    assert again._metadata == {"version": 1}
    assert (again["a"] is copies[0], again["b"]["c"][1:]) == (True, [5, "text"])
    assert state["a"] is tensors[0]


def test_only_the_gpu_in_use_gives_its_random_state(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.device] = []

    def get(device: torch.device) -> torch.Tensor:
        asked.append(device)
        return torch.zeros(16, dtype=torch.uint8)

    monkeypatch.setattr(torch.cuda, "get_rng_state", get)
    with fake_cuda():
        network = nn.Linear(2, 2, device="cuda:1")
        assert checkpoint.random_states(network)[0].numel() == 16
    assert asked == [torch.device("cuda:1")]
    assert checkpoint.random_states(nn.Linear(2, 2)) == []


def test_cbam_pools_on_a_gpu_by_what_is_summed_in_order() -> None:
    """The gradient of adaptive_max_pool2d is not, and both give the same numbers."""
    maps = torch.randn(2, 16, 4, 4)
    assert torch.equal(maps.amax((2, 3)), torch.nn.functional.adaptive_max_pool2d(maps, 1).flatten(1))
    with fake_cuda() as traffic, torch.device("cuda"):
        CBAM(16)(torch.empty(2, 16, 4, 4))
    assert traffic.operators["amax"] == 1
    assert "adaptive_max_pool2d" not in traffic.operators


def test_emulated_bf16_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU before Ampere: bf16 works, slower than fp32; fp16 is what it has."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert not has_bf16("cuda")
    assert [shorter(asked, "cuda") for asked in ("auto", "fp32", "bf16")] == ["fp16", "fp32", "bf16"]


def test_by_itself_a_cpu_never_takes_fp16(monkeypatch: pytest.MonkeyPatch) -> None:
    for has in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has=has: has)
        assert shorter("auto", "cpu") == ("bf16" if has else "fp32")


def test_fp32_is_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    exact_fp32("cpu")
    assert torch.backends.cudnn.allow_tf32
    exact_fp32("cuda")
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_the_clock_is_read_when_the_gpu_is_done(
    coloured_npz: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every measured epoch waits for the device first; the order of both is written down."""
    from lfdeploy.config import TrainConfig

    order: list[str] = []
    clock = training.loop.time.perf_counter
    monkeypatch.setattr(training.loop, "settle", lambda device: order.append(f"settle {device}"))
    monkeypatch.setattr(training.loop.time, "perf_counter", lambda: order.append("clock") or clock())
    close = training.loop._close_epoch
    monkeypatch.setattr(training.loop, "_close_epoch", lambda *given: order.append("epoch") or close(*given))
    config = TrainConfig(data=str(coloured_npz), arch="resnet8", method="independent", peers=1, epochs=2)
    training.loop.train(config, runs=tmp_path / "runs")
    ends = [index for index, event in enumerate(order) if event == "epoch"]
    assert len(ends) == 2
    assert all(order[end - 2 : end] == ["settle cpu", "clock"] for end in ends)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: order.append("synchronize"))
    settle("cpu")
    assert order[-1] != "synchronize"
    settle("cuda")
    assert order[-1] == "synchronize"
