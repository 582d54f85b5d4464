"""`/metrics` of several processes as one: what Prometheus reads must not depend on who answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample


def summed(texts: Iterable[str]) -> bytes:
    """The metrics of all texts added up, sample by sample; of times of creation the earliest."""
    registry = CollectorRegistry()
    registry.register(_Sums(texts))
    return generate_latest(registry)


def lasting(texts: Iterable[str]) -> str:
    """Of processes that ended, what still counts: what happened, and not how things stood."""
    registry, sums = CollectorRegistry(), _Sums(texts)
    sums.families = {
        name: family
        for name, family in sums.families.items()
        if family.type != "gauge" or name.endswith("_created")
    }
    registry.register(sums)
    return generate_latest(registry).decode()


class _Sums(Collector):
    def __init__(self, texts: Iterable[str]) -> None:
        self.families: dict[str, Metric] = {}
        for text in texts:
            for family in text_string_to_metric_families(text):
                self._add(family)

    def _add(self, family: Metric) -> None:
        whole = self.families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
        places = {_key(sample): place for place, sample in enumerate(whole.samples)}
        for sample in family.samples:
            place = places.get(_key(sample))
            if place is None:
                whole.samples.append(sample)
                continue
            before = whole.samples[place].value
            value = min(before, sample.value) if sample.name.endswith("_created") else before + sample.value
            whole.samples[place] = Sample(sample.name, sample.labels, value)

    def collect(self) -> Iterator[Metric]:
        """All of it."""
        yield from self.families.values()


def _key(sample: Sample) -> tuple[str, tuple[tuple[str, str], ...]]:
    return sample.name, tuple(sorted(sample.labels.items()))
