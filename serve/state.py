"""What the handlers of one server share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import TYPE_CHECKING

from serve.bodies import Held
from serve.engine import Engine, decoders
from serve.entries import Entry, preferred
from serve.metrics import Metrics
from serve.problems import Problem

if TYPE_CHECKING:
    from serve.workers.team import Team


@dataclass(frozen=True)
class State:
    """The engines by key, the counters, whether the server stops, and which requests of programs are under
    way; in the first of several processes the other ones. A ``quiet`` one leaves telling and counting of what
    went well to the first.
    """

    engines: Mapping[str, Engine]
    metrics: Metrics
    closing: Event = field(default_factory=Event)
    held: Held = field(default_factory=Held)
    active: set[str] = field(default_factory=set)
    team: Team | None = None
    quiet: bool = False

    @property
    def entries(self) -> list[Entry]:
        """What is served now."""
        return [engine.entry for engine in self.engines.values()]

    @property
    def ready(self) -> bool:
        """Whether pictures are taken: something was opened, and the server does not stop."""
        return not self.closing.is_set() and any(entry.predictor for entry in self.entries)

    def engine(self, key: str | None) -> Engine:
        """An artifact's engine; without a key that of the artifact which the page opens with. Raises
        `Problem`.
        """
        if key is None:
            key = preferred(self.entries).key
        if key not in self.engines:
            names = ", ".join(self.engines)
            raise Problem("unknown_artifact", f"There is no artifact '{key[:80]}' here. There are: {names}.")
        return self.engines[key]


def state_of(entries: Sequence[Entry], team: Team | None = None, quiet: bool = False) -> State:
    """Engines for opened artifacts, on threads that they share."""
    threads, metrics = decoders(), Metrics()
    engines = {
        entry.key: Engine(entry, threads, watch=metrics.watcher(entry.key)) for entry in entries
    }  # fmt: skip
    metrics.gauge_depth(engines)
    return State(engines, metrics, team=team, quiet=quiet)
