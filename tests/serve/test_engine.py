"""The queue of one artifact: batches grow under load, one failure is one picture's, what nobody waits for is
left out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from serve_pictures import JPEG, plain, saved

from lfdeploy.errors import LfdeployError, PictureError
from lfdeploy.predict import Predictor
from serve.engine import Busy, Engine, Late
from serve.entries import Entry

PEER, FUSED = "peer0-onnx-fp32", "fused-onnx-fp32"


@dataclass
class Gated:
    """A session that answers when it is let."""

    inner: Any
    gate: threading.Event = field(default_factory=threading.Event)
    entered: threading.Event = field(default_factory=threading.Event)
    sizes: list[int] = field(default_factory=list)
    backend = device = "gate"

    def __call__(self, images: Any) -> Any:
        self.sizes.append(len(images))
        self.entered.set()
        assert self.gate.wait(30)
        return self.inner(images)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(3) as pool:
        yield pool


@pytest.fixture
def gated(entries: dict[str, Entry]) -> tuple[Gated, Entry]:
    """A session that waits, and its entry."""
    held = entries[PEER]
    assert held.predictor is not None
    session = Gated(held.predictor.session)
    return session, Entry(PEER, held.artifact, Predictor(held.artifact, session))


def pixels(entry: Entry, seed: int) -> Any:
    assert entry.predictor is not None
    side = entry.predictor.size
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)


def test_a_lone_picture_is_answered_as_by_predict(
    entries: dict[str, Entry], threads: ThreadPoolExecutor
) -> None:
    for entry in entries.values():
        assert entry.predictor is not None
        found = Engine(entry, threads).submit(JPEG).result(30)
        expected = entry.predictor.predict(JPEG, top=10)
        best = [
            (entry.predictor.labels[i], float(found.probabilities[i]))
            for i in np.argsort(-found.probabilities)
        ]
        assert tuple(best) == expected.top and found.batch == 1 and found.entry is entry


def test_those_that_wait_are_answered_together(
    gated: tuple[Gated, Entry], threads: ThreadPoolExecutor
) -> None:
    session, entry = gated
    runs: list[int] = []
    engine = Engine(entry, threads, largest=8, watch=lambda pictures, _: runs.append(pictures))
    rows = [pixels(entry, seed) for seed in range(21)]
    first = engine.submit(rows[0])
    assert session.entered.wait(30)
    others = [engine.submit(row) for row in rows[1:]]
    while len(engine._waiting) < 20:
        threading.Event().wait(0.001)
    session.gate.set()
    found = [future.result(30) for future in (first, *others)]
    assert session.sizes == [1, 8, 8, 4] == runs and engine.depth == 0
    alone = session.inner(np.stack(rows))[1]
    for row, outcome in enumerate(found):
        assert np.allclose(outcome.probabilities, alone[row], atol=1e-6)
    assert [outcome.batch for outcome in found] == [1] + [8] * 16 + [4] * 4


def test_a_full_queue_refuses_and_says_for_how_long(
    gated: tuple[Gated, Entry], threads: ThreadPoolExecutor
) -> None:
    session, entry = gated
    engine = Engine(entry, threads, most=4)
    taken = [engine.submit(pixels(entry, seed)) for seed in range(4)]
    with pytest.raises(Busy) as refused:
        engine.submit(JPEG)
    assert refused.value.seconds > 0 and engine.depth == 4
    session.gate.set()
    wait(taken, 30)
    assert engine.submit(JPEG).result(30).batch >= 1 and engine.depth == 0


def test_who_leaves_costs_nothing_and_who_is_late_is_told(
    gated: tuple[Gated, Entry], threads: ThreadPoolExecutor
) -> None:
    session, entry = gated
    engine = Engine(entry, threads)
    first = engine.submit(pixels(entry, 0))
    assert session.entered.wait(30)
    left, late, kept = (
        engine.submit(pixels(entry, 1)),
        engine.submit(pixels(entry, 2), patience=-1),
        engine.submit(pixels(entry, 3)),
    )
    while len(engine._waiting) < 3:
        threading.Event().wait(0.001)
    assert left.cancel() and engine.depth == 3 and len(engine._waiting) == 2 and not first.cancel()
    session.gate.set()
    assert kept.result(30).batch == 1 and session.sizes == [1, 1]
    with pytest.raises(Late):
        late.result(30)
    with pytest.raises(CancelledError):
        left.result(30)
    assert engine.depth == 0


def test_bad_pictures_fail_alone(entries: dict[str, Entry], threads: ThreadPoolExecutor) -> None:
    """A thousand mixes of good and bad ones, as they come."""
    entry, random = entries[PEER], np.random.default_rng(0)
    assert entry.predictor is not None
    engine = Engine(entry, threads, most=2000)
    files = {"good": saved(plain(), "PNG"), "cut": JPEG[:300], "text": b"hello", "empty": b""}
    expected = entry.predictor.predict(files["good"], top=1).top[0][1]
    names = [random.choice(list(files), p=[0.4, 0.2, 0.2, 0.2]) for _ in range(1000)]
    for name, future in [(name, engine.submit(files[name])) for name in names]:
        if name == "good":
            assert float(future.result(60).probabilities.max()) == pytest.approx(expected, abs=1e-6)
        else:
            with pytest.raises(PictureError):
                future.result(60)
    assert engine.depth == 0


def test_a_model_that_fails_on_one_of_a_batch_answers_the_others(
    gated: tuple[Gated, Entry], threads: ThreadPoolExecutor
) -> None:
    session, entry = gated
    answered: Callable[[Any], Any] = session.inner

    def picky(images: Any) -> Any:
        if (images.reshape(len(images), -1) == 255).all(axis=1).any():
            raise RuntimeError("white")
        return answered(images)

    session.inner = picky
    engine = Engine(entry, threads)
    first = engine.submit(pixels(entry, 0))
    assert session.entered.wait(30)
    white = engine.submit(np.full_like(pixels(entry, 0), 255))
    others = [engine.submit(pixels(entry, seed)) for seed in range(1, 5)]
    while len(engine._waiting) < 5:
        threading.Event().wait(0.001)
    session.gate.set()
    with pytest.raises(RuntimeError, match="white"):
        white.result(30)
    assert all(future.result(30) for future in (first, *others))


def test_a_thread_that_has_its_answer_is_let_go(
    gated: tuple[Gated, Entry], threads: ThreadPoolExecutor
) -> None:
    """The page's threads do the work themselves, but not that of all who come after."""
    session, entry = gated
    engine = Engine(entry, threads)
    done = threading.Event()

    def visit() -> None:
        engine.submit(pixels(entry, 0), here=True).result(30)
        done.set()

    visitor = threading.Thread(target=visit)
    visitor.start()
    assert session.entered.wait(30)
    session.entered.clear()
    others = [engine.submit(pixels(entry, seed)) for seed in range(1, 40)]
    inner, gate = session.inner, threading.Event()

    def stuck(images: Any) -> Any:
        if len(session.sizes) > 1:
            assert gate.wait(30)
        return inner(images)

    session.inner = stuck
    session.gate.set()
    assert done.wait(10)  # while the others' run goes on
    gate.set()
    assert all(future.result(30) for future in others) and engine.depth == 0
    visitor.join()


def test_a_swap_is_for_the_next_picture(entries: dict[str, Entry], gated: tuple[Gated, Entry],
                                        threads: ThreadPoolExecutor) -> None:  # fmt: skip
    """Those under way are answered by the one they came to, whose pixels they have."""
    session, entry = gated
    engine = Engine(entry, threads)
    before = [engine.submit(pixels(entry, seed)) for seed in range(5)]
    engine.swap(entries[FUSED])
    after = [engine.submit(JPEG) for _ in range(5)]
    session.gate.set()
    assert {future.result(30).entry.key for future in before} == {PEER}
    assert {future.result(30).entry.key for future in after} == {FUSED}


def test_what_cannot_run_is_a_sentence(entries: dict[str, Entry], threads: ThreadPoolExecutor) -> None:
    entry = Entry("engine", entries[PEER].artifact, reason="there is no GPU.")
    with pytest.raises(LfdeployError, match=r"engine cannot run here: there is no GPU\. Pick another"):
        Engine(entry, threads).submit(JPEG)
