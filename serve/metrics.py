"""Counters for Prometheus. Of every picture that a program sends exactly one outcome is counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from serve.engine import Engine, Outcome

#: What becomes of a picture: answered; refused as no picture of ours; turned away by a full queue, or too
#: late; given up by its sender; failed by our fault.
OUTCOMES = ("success", "refused", "rejected", "cancelled", "failure")
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SIZES = (1, 2, 4, 8, 16)


class Metrics:
    """A registry of its own, so that two servers in one process do not count together."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._known: dict[str, tuple[Counter, tuple[tuple[str, Histogram], ...]]] = {}
        self.requests = Counter(
            "lfdeploy_requests", "Requests by route and status", ["route", "status"], registry=registry
        )
        self.pictures = Counter(
            "lfdeploy_pictures",
            "Pictures by artifact and outcome",
            ["artifact", "outcome"],
            registry=registry,
        )
        self.stages = Histogram(
            "lfdeploy_picture_seconds", "Seconds of answered pictures by stage", ["artifact", "stage"],
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.batches = Histogram(
            "lfdeploy_batch_size",
            "Pictures a run of the model",
            ["artifact"],
            buckets=SIZES,
            registry=registry,
        )
        self.runs = Histogram(
            "lfdeploy_run_seconds", "Seconds a run of the model", ["artifact"], buckets=SECONDS,
            registry=registry,
        )  # fmt: skip
        self.depth = Gauge(
            "lfdeploy_pictures_under_way", "Pictures that wait or run", ["artifact"], registry=registry
        )
        self.swaps = Counter(
            "lfdeploy_swaps", "Replacements of an artifact by outcome", ["artifact", "outcome"],
            registry=registry,
        )  # fmt: skip

    def watcher(self, key: str) -> Callable[[int, float], None]:
        """What an engine calls after each run of its model."""
        sizes, seconds = self.batches.labels(key), self.runs.labels(key)

        def watch(pictures: int, milliseconds: float) -> None:
            sizes.observe(pictures)
            seconds.observe(milliseconds / 1e3)

        return watch

    def gauge_depth(self, engines: Mapping[str, Engine]) -> None:
        """Read the depth of each queue whenever somebody asks."""
        for key, engine in engines.items():
            self.depth.labels(key).set_function(partial(getattr, engine, "depth"))

    def answered(self, outcome: Outcome) -> None:
        """Count an answered picture and its stages."""
        success, stages = self._of(outcome.entry.key)
        success.inc()
        for stage, seconds in stages:
            seconds.observe(getattr(outcome, stage) / 1e3)

    def _of(self, key: str) -> tuple[Counter, tuple[tuple[str, Histogram], ...]]:
        """What an answer of this artifact is counted by, found once."""
        if key not in self._known:
            stages = ("decode", "queue", "model")
            found = tuple((f"{stage}_ms", self.stages.labels(key, stage)) for stage in stages)
            self._known[key] = self.pictures.labels(key, "success"), found
        return self._known[key]

    def text(self) -> bytes:
        """All of it in Prometheus's text format."""
        return generate_latest(self.registry)
