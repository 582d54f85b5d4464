"""Pictures that wait together are answered together: one engine an artifact, for the API and the page.

A picture is decoded by one of a few threads. The thread that has it ready hands it to the model; if the model
is free, that very thread runs it, with all others that are ready by then, and again with those that became
ready meanwhile. So a lone picture waits for nobody, and under load batches grow by themselves.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from lfdeploy.backends.base import Floats
from lfdeploy.errors import LfdeployError
from lfdeploy.images import Pixels, decode, fit
from serve.entries import Entry
from serve.recent import Recent

#: Pictures of one artifact that may be under way at once; the next one is told to come later.
MOST_WAITING = 64
#: The largest batch: beyond it a picture costs no less, and the first of a batch waits for the last.
LARGEST = 16
#: Seconds after which nobody waits for an answer any more.
PATIENCE = 30.0


class Busy(LfdeployError):
    """More pictures wait than may; ``seconds`` is about how long those take."""

    def __init__(self, seconds: float) -> None:
        super().__init__("Too many pictures are waiting. Send this one again later.")
        self.seconds = seconds


class Late(LfdeployError):
    """The picture's time was over before the model came to it."""


@dataclass(frozen=True)
class Outcome:
    """What the model said of one picture: ``logits`` and ``probabilities`` (K,), the heat map (h, w) where it
    was asked for, remarks about the picture, and milliseconds. ``batch`` pictures shared the model's run.
    """

    entry: Entry
    logits: Floats
    probabilities: Floats
    heatmap: Floats | None
    notes: tuple[str, ...]
    decode_ms: float
    queue_ms: float
    model_ms: float
    batch: int


@dataclass(eq=False)
class _Job:
    entry: Entry
    source: bytes | Pixels
    explain: bool
    deadline: float
    future: Future[Outcome] = field(default_factory=Future)
    pixels: Pixels | None = None
    notes: tuple[str, ...] = ()
    decode_ms: float = 0.0
    ready: float = 0.0


class Engine:
    """The queue of one artifact. ``watch(pictures, milliseconds)`` is called after each run of the model."""

    def __init__(
        self,
        entry: Entry,
        threads: ThreadPoolExecutor,
        *,
        most: int = MOST_WAITING,
        largest: int = LARGEST,
        watch: Callable[[int, float], None] = lambda pictures, milliseconds: None,
    ) -> None:
        self.entry = entry
        self.most = most
        self.recent: Recent[Outcome] = Recent()
        self._threads, self._largest, self._watch = threads, largest, watch
        self._lock = threading.Lock()
        self._waiting: deque[_Job] = deque()
        self._inside = 0
        self._runs = False
        self._cost = 0.01  # seconds a picture, as of late

    @property
    def depth(self) -> int:
        """Pictures that are under way."""
        return self._inside

    def submit(
        self,
        source: bytes | Pixels,
        *,
        explain: bool = False,
        patience: float = PATIENCE,
        here: bool = False,
    ) -> Future[Outcome]:
        """What the model will say of a file's bytes, or of pixels uint8 (size, size, 3) as the model takes
        them. ``here``: the calling thread has time, and does the work itself.

        The future raises `PictureError`, `Late`, or what the model raised. Cancelled before the model has
        it, the picture is forgotten. Raises `Busy`, and `LfdeployError` for an artifact that does not run
        here.
        """
        entry = self.entry
        if entry.predictor is None:
            raise LfdeployError(entry.cannot)
        with self._lock:
            if self._inside >= self.most:
                raise Busy(self._inside * self._cost)
            self._inside += 1
        job = _Job(entry, source, explain, time.monotonic() + patience)
        job.future.add_done_callback(partial(self._given_up, job))
        if here:
            self._prepare(job, leaves=True)
        else:
            self._threads.submit(self._prepare, job)
        return job.future

    def swap(self, entry: Entry) -> None:
        """Answer with another entry from the next picture on; those under way keep the one they came to."""
        self.entry = entry

    def _given_up(self, job: _Job, _: Future[Outcome]) -> None:
        """Forget a picture that waits and was cancelled; one that is being decoded is dropped after that."""
        with self._lock:
            if job.future.cancelled() and job in self._waiting:
                self._waiting.remove(job)
                self._inside -= 1

    def _prepare(self, job: _Job, leaves: bool = False) -> None:
        """Decode a picture, and run the model with it unless another thread does. A thread that ``leaves``
        runs it until its own picture is answered; others go on with what came meanwhile.
        """
        if not job.future.cancelled():
            try:
                _decode(job)
            except BaseException as error:
                self._settle(job, error)
                return
        with self._lock:
            if job.future.cancelled():
                self._inside -= 1
                return
            self._waiting.append(job)
            if self._runs:
                return
            self._runs = True
        self._run(job if leaves else None)

    def _run(self, own: _Job | None) -> None:
        while batch := self._next():
            self._answer(batch)
            if own is not None and own.future.done():
                self._threads.submit(self._run, None)
                return

    def _next(self) -> list[_Job]:
        """The jobs of the next run, of one entry, those that nobody waits for left out; none: this thread
        runs the model no longer.
        """
        batch: list[_Job] = []
        late: list[_Job] = []
        with self._lock:
            while self._waiting and len(batch) < self._largest:
                if batch and not _together(batch[0], self._waiting[0]):
                    break
                job = self._waiting.popleft()
                if not job.future.set_running_or_notify_cancel():
                    self._inside -= 1
                elif time.monotonic() > job.deadline:
                    late.append(job)
                else:
                    batch.append(job)
            self._runs = bool(batch)
        for job in late:
            self._settle(job, Late("The server did not come to this picture in time. Send it again later."))
        return batch

    def _answer(self, batch: list[_Job]) -> None:
        entry, start = batch[0].entry, time.perf_counter()
        assert entry.predictor is not None
        heatmaps: list[Any] = [None] * len(batch)
        try:
            pixels = np.stack([job.pixels for job in batch if job.pixels is not None])
            if batch[0].explain:
                named = entry.predictor.session.named(pixels)
                logits, probabilities, heatmaps = (
                    named["logits"], named["probabilities"], list(named["heatmap"]),
                )  # fmt: skip
            else:
                logits, probabilities = entry.predictor.run(pixels)
        except Exception as error:
            if len(batch) == 1:
                self._settle(batch[0], error)
            else:  # perhaps one of them alone is to blame
                for job in batch:
                    self._answer([job])
            return
        spent = (time.perf_counter() - start) * 1e3
        self._cost += 0.2 * (spent / 1e3 / len(batch) - self._cost)
        self._watch(len(batch), spent)
        for row, job in enumerate(batch):
            waited = (start - job.ready) * 1e3
            outcome = Outcome(
                entry, logits[row], probabilities[row], heatmaps[row], job.notes,
                job.decode_ms, waited, spent, len(batch),
            )  # fmt: skip
            self._settle(job, outcome)

    def _settle(self, job: _Job, found: Outcome | BaseException) -> None:
        """Give a picture its answer, or the reason why there is none."""
        with self._lock:
            self._inside -= 1
        try:
            if isinstance(found, Outcome):
                job.future.set_result(found)
            else:
                job.future.set_exception(found)
        except InvalidStateError:  # cancelled while it was decoded
            pass


def decoders() -> ThreadPoolExecutor:
    """The threads that decode and run models: one a core, at least two."""
    count = max(2, len(os.sched_getaffinity(0)))
    return ThreadPoolExecutor(count, thread_name_prefix="lfdeploy-engine")


def _decode(job: _Job) -> None:
    """Bytes to pixels, as in `lfdeploy predict`."""
    assert job.entry.predictor is not None
    size, start = job.entry.predictor.size, time.perf_counter()
    if isinstance(job.source, bytes):
        picture = decode(job.source, size)
        job.pixels, job.notes = fit(picture.image, size), picture.notes
    else:
        job.pixels = job.source
    job.source = b""
    job.ready = time.perf_counter()
    job.decode_ms = (job.ready - start) * 1e3


def _together(one: _Job, other: _Job) -> bool:
    """Whether two may share a run: a heat map costs, and is made for who asked alone."""
    return one.entry is other.entry and one.explain == other.explain
