"""Side by side and one after the other are the same step: parts, gradients, statistics, evaluation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from builders import at, built, enough, given
from torch import Tensor, nn

from lfdeploy.config import parse_options
from lfdeploy.data import Split
from lfdeploy.errors import LfdeployError
from training.cohort import Cohort
from training.engine import Engine, threads_for
from training.evaluate import evaluate_cohort
from training.losses import LossGraph
from training.methods import METHODS
from training.precision import pick_precision

CLASSES, SIZE = 10, 16
CASES = [
    ("lfmkd", {}),
    ("lfmkd", {"knowledge": "maps"}),
    ("lfmkd", {"detach_taps": "true", "lambda_teachers": "1"}),
    ("lfmkd", {"detach_taps": "true", "knowledge": "maps"}),
    ("ffl", {}),
    ("independent", {}),
]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def engines() -> Iterator[list[Engine]]:
    made: list[Engine] = []
    yield made
    for engine in made:
        engine.close()


def cohort_of(
    method: str, archs: list[str], options: dict[str, str], size: int = SIZE
) -> tuple[Cohort, LossGraph]:
    torch.manual_seed(0)
    row = METHODS[method]
    chosen = parse_options(row.options, list(options.items()), method)
    cohort = built(method, archs, CLASSES, size, chosen)
    return cohort.to(memory_format=torch.channels_last).train(), row.graph(cohort, chosen)


def batch(count: int = 16, size: int = SIZE, seed: int = 0) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return x.contiguous(memory_format=torch.channels_last), torch.arange(count) % CLASSES


def take(engine: Engine, images: Tensor, labels: Tensor, factor: float = 1.0) -> dict[str, Tensor]:
    """One step of the engine."""
    return engine.step(given(engine.cohort, images, labels), at(engine.graph, factor))


def three_steps(engine: Engine, size: int = SIZE) -> list[dict[str, Tensor]]:
    """Parts, gradients, weights and statistics of three steps with an optimiser in between."""
    optimizer = torch.optim.SGD(engine.cohort.parameter_groups(5e-4), lr=0.05, momentum=0.9)
    found = []
    for step in range(3):
        optimizer.zero_grad(set_to_none=True)
        parts = take(engine, *batch(size=size, seed=step), factor=0.3)
        assert not any(part.requires_grad for part in parts.values())
        grads = {
            f"grad of {n}": p.grad.clone() for n, p in engine.cohort.named_parameters() if p.grad is not None
        }
        optimizer.step()
        found.append({**parts, **grads, **{n: t.clone() for n, t in engine.cohort.state_dict().items()}})
    return found


def test_bf16_is_the_same_in_every_run(engines: list[Engine]) -> None:
    """Autocast's cache is one for all threads, and emptied by the first that ends: sums would depend on
    who won.
    """
    runs = []
    for threads in (0, 2):
        cohort, graph = cohort_of("lfmkd", ["resnet8"] * 2, {})
        engines.append(Engine(cohort, graph, "cpu", torch.bfloat16, threads))
        with engines[-1].autocast():
            assert not torch.is_autocast_cache_enabled()
        runs.append(three_steps(engines[-1]))
    for serial, threaded in zip(*runs, strict=True):
        assert all(torch.equal(value, threaded[name]) for name, value in serial.items())


@pytest.mark.parametrize("peers", [2, 3])
@pytest.mark.parametrize(
    ("method", "options"), CASES, ids=lambda v: v if isinstance(v, str) else " ".join(v) or "defaults"
)
def test_threads_take_the_same_step_to_the_bit(
    method: str, options: dict[str, str], peers: int, engines: list[Engine]
) -> None:
    runs = []
    for threads in (0, peers):
        cohort, graph = cohort_of(method, ["resnet8"] * peers, options)
        engines.append(Engine(cohort, graph, "cpu", torch.float32, threads))
        assert (engines[-1].pool is not None) == (threads > 0)
        runs.append(three_steps(engines[-1]))
    for step, (serial, threaded) in enumerate(zip(*runs, strict=True)):
        assert list(serial) == list(threaded)
        for name, value in serial.items():
            assert torch.equal(value, threaded[name]), (
                step,
                name,
                (value - threaded[name]).abs().max().item(),
            )


@pytest.mark.parametrize("knowledge", ["logits", "maps"])
def test_threads_take_the_same_step_with_unlike_peers(knowledge: str, engines: list[Engine]) -> None:
    """Maps of unlike size are pooled inside the joint: the gradient passes through that as well.

    By maps, one stage of peer 1 is read four times; then gradients are summed in another order, so not to
    the bit.
    """
    runs = []
    for threads in (0, 2):
        cohort, graph = cohort_of("lfmkd", ["resnet8", "mobilenet_v3_small"], {"knowledge": knowledge}, 32)
        for module in cohort.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        engines.append(Engine(cohort, graph, "cpu", torch.float32, threads))
        runs.append(three_steps(engines[-1], 32)[0])
    serial, threaded = runs
    assert list(serial) == list(threaded)
    for name, value in serial.items():
        off = (value - threaded[name]).abs().max().item()
        assert off == 0 if knowledge == "logits" else off <= 1e-5 * value.abs().max().item() + 1e-7, (
            name,
            off,
        )


def test_a_step_adds_to_gradients_and_counts_one_batch(engines: list[Engine]) -> None:
    for threads in (0, 2):
        cohort, graph = cohort_of("lfmkd", ["resnet8"] * 2, {})
        engines.append(Engine(cohort, graph, "cpu", torch.float32, threads))
        take(engines[-1], *batch())
        counts = {int(t) for n, t in cohort.state_dict().items() if n.endswith("num_batches_tracked")}
        assert counts == {1}


@pytest.mark.parametrize("peers", [pytest.param(2, marks=pytest.mark.wide), 3])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_threads_evaluate_alike(method: str, peers: int, engines: list[Engine]) -> None:
    cohort, graph = cohort_of(method, ["resnet8"] * enough(method, peers), {})
    serial, threaded = (Engine(cohort, graph, "cpu", torch.bfloat16, threads) for threads in (0, peers))
    engines += [serial, threaded]
    take(serial, *batch())
    cohort.eval()
    x, _ = batch(32, seed=5)
    with torch.no_grad():
        plain = cohort.see(x)
    for engine in (serial, threaded):
        nodes = engine.forward(x)
        assert set(nodes) == set(plain)
        for name, tensor in plain.items():
            assert nodes[name].dtype == torch.float32
            assert torch.equal(nodes[name], tensor), name
        assert engine.dtype == torch.bfloat16
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (300, SIZE, SIZE, 3), dtype=np.uint8)
    split = Split(pictures, random.integers(0, CLASSES, 300), "digest")
    mean, std = torch.full((3,), 0.5), torch.full((3,), 0.25)
    one, other = (evaluate_cohort(engine, split, mean, std) for engine in (serial, threaded))
    assert one.top1 == other.top1
    assert np.array_equal(one.predicted, other.predicted)
    assert cohort.training


def test_accuracy_is_counted_over_the_whole_split(engines: list[Engine]) -> None:
    """Against a count by hand, over more pictures than one batch of evaluation and a last one that
    is smaller.
    """
    cohort, graph = cohort_of("lfmkd", ["resnet8"] * 2, {})
    engines.append(Engine(cohort, graph, "cpu", torch.float32, 0))
    random = np.random.default_rng(0)
    split = Split(
        random.integers(0, 256, (261, SIZE, SIZE, 3), dtype=np.uint8),
        random.integers(0, CLASSES, 261),
        "digest",
    )
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.25, 0.3])
    scores = evaluate_cohort(engines[0], split, mean, std)
    cohort.eval()
    x = ((torch.from_numpy(split.images).float() / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        logits = cohort.see(x)
    truth = torch.from_numpy(split.labels)
    for name in cohort.names:
        assert scores.top1[name] == pytest.approx(
            100 * (logits[name].argmax(1) == truth).double().mean().item(), abs=0.8
        ), name
    mixed = (torch.softmax(logits["peer0"], 1) + torch.softmax(logits["peer1"], 1)).argmax(1)
    assert scores.top1["ensemble_probs"] == pytest.approx(
        100 * (mixed == truth).double().mean().item(), abs=0.8
    )
    assert np.mean(scores.predicted == logits["fused"].argmax(1).numpy()) > 0.99
    document = scores.document()
    assert document["peers"] == [scores.top1["peer0"], scores.top1["peer1"]]
    assert document["aux"] == [scores.top1["aux0"], scores.top1["aux1"]]
    assert (document["fused"], document["ensemble"]) == (scores.top1["fused"], scores.top1["ensemble"])


def test_evaluation_without_a_fused_head_predicts_with_peer_0(engines: list[Engine]) -> None:
    cohort, graph = cohort_of("independent", ["resnet8"] * 2, {})
    engines.append(Engine(cohort, graph, "cpu", torch.float32, 0))
    split = Split(
        np.random.default_rng(0).integers(0, 256, (32, SIZE, SIZE, 3), dtype=np.uint8),
        np.arange(32) % CLASSES,
        "digest",
    )
    scores = evaluate_cohort(engines[0], split, torch.full((3,), 0.5), torch.full((3,), 0.25))
    assert scores.top1["peer0"] == pytest.approx(100 * np.mean(scores.predicted == split.labels))
    assert scores.document()["fused"] is None


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize(
    ("method", "options"),
    CASES[:2] + CASES[4:],
    ids=lambda v: v if isinstance(v, str) else " ".join(v) or "defaults",
)
def test_bf16_is_close_to_fp32(
    method: str, options: dict[str, str], threads: int, engines: list[Engine]
) -> None:
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        cohort, graph = cohort_of(method, ["resnet8"] * 2, options)
        engines.append(Engine(cohort, graph, "cpu", dtype, threads))
        parts = take(engines[-1], *batch(32))
        gradient = torch.cat([p.grad.flatten() for p in cohort.parameters() if p.grad is not None])
        assert {part.dtype for part in parts.values()} == {torch.float32}
        assert {p.dtype for p in cohort.parameters()} == {torch.float32}
        found.append((parts, gradient))
    (exact, gradient), (short, its) = found
    assert any(not torch.equal(exact[name], short[name]) for name in exact)
    for name, value in exact.items():
        assert short[name].item() == pytest.approx(value.item(), rel=0.1, abs=0.02), name
    assert torch.nn.functional.cosine_similarity(gradient, its, dim=0) > 0.97


def test_threads_are_taken_only_where_they_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.engine.cores", lambda: 4)
    pair = cohort_of("lfmkd", ["resnet8"] * 2, {})[0]
    assert threads_for("auto", pair, "cpu") == 3  # two taps and the end are three joints
    assert threads_for("peer", cohort_of("independent", ["resnet8"] * 2, {})[0], "cpu") == 2
    assert threads_for("shared", pair, "cpu") == 0
    assert threads_for("auto", pair, "cuda") == 0
    assert threads_for("auto", cohort_of("independent", ["resnet8"], {})[0], "cpu") == 0
    assert threads_for("auto", cohort_of("ffl", ["resnet8"] * 2, {"share": "stem"})[0], "cpu") == 2
    # dropout
    assert threads_for("auto", cohort_of("independent", ["resnet8", "mobilenet_v3_small"], {})[0], "cpu") == 0
    monkeypatch.setattr("training.engine.cores", lambda: 1)
    assert threads_for("auto", pair, "cpu") == 0


def test_an_error_in_a_thread_reaches_the_caller(engines: list[Engine]) -> None:
    cohort, graph = cohort_of("lfmkd", ["resnet8"] * 2, {})
    engines.append(Engine(cohort, graph, "cpu", torch.float32, 2))
    with pytest.raises(RuntimeError, match="channels"):
        take(engines[0], torch.randn(4, 5, SIZE, SIZE), torch.zeros(4, dtype=torch.long))


def test_precision_is_probed_without_leaving_a_trace() -> None:
    cohort, _ = cohort_of("lfmkd", ["resnet8"] * 2, {})
    before = {n: t.clone() for n, t in cohort.state_dict().items()}
    random = torch.get_rng_state()
    dtype, said = pick_precision("bf16", cohort, "cpu", batch(32)[0])
    assert dtype == torch.bfloat16
    assert said.startswith("bf16 (first batch: ")
    assert all(torch.equal(t, before[n]) for n, t in cohort.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert pick_precision("fp32", cohort, "cpu", batch()[0]) == (torch.float32, "fp32")
    with torch.no_grad():
        cohort.networks[0].head[2].weight.fill_(float("nan"))
    with pytest.raises(LfdeployError, match="--precision fp32"):
        pick_precision("bf16", cohort, "cpu", batch()[0])
    if torch.cpu._is_avx512_bf16_supported():
        dtype, said = pick_precision("auto", cohort, "cpu", batch()[0])
        # its first word is the summary's precision
        assert (dtype, said.split()[0]) == (torch.float32, "fp32")


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize(("method", "unasked"), [("kd", "teacher"), ("codistillation", "stale_peer0")])
def test_what_nobody_asks_for_is_not_computed(method: str, unasked: str, threads: int) -> None:
    """Teachers of other runs and stale copies cost nothing in evaluation."""
    torch.manual_seed(0)
    row = METHODS[method]
    peers = ["resnet8"] * max(2, row.peers)
    cohort = built(method, peers, CLASSES, 16, row.options()).eval()
    engine = Engine(cohort, row.graph(cohort, row.options()), "cpu", torch.float32, threads)
    x = torch.randn(4, 3, 16, 16)
    try:
        whole, asked = engine.forward(x), engine.forward(x, cohort.names)
    finally:
        engine.close()
    assert set(cohort.names) <= set(asked) <= set(whole)
    assert all(torch.equal(asked[name], whole[name]) for name in cohort.names)
    assert unasked in whole and unasked not in asked
