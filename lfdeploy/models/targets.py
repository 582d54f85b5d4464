"""What of a run can be exported: the table ``targets`` of spec.json, written by training and read by
everyone else.

A network is a `Backbone` by its architecture and the prefix of its weights. A target is one network, the mean
of the logits of several, or several whose last maps a fused head reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lfdeploy.errors import UsageError

NETWORK, FUSED, MEAN = "network", "fused", "mean"


@dataclass(frozen=True)
class Network:
    """One network of a run: its architecture, and what the names of its weights in model.safetensors
    begin with.
    """

    arch: str
    weights: str


@dataclass(frozen=True)
class Head:
    """What a fused target has beside its networks: channels of their last maps, the operator, the prefix of
    its weights.
    """

    channels: tuple[int, ...]
    operator: str
    weights: str


@dataclass(frozen=True)
class Target:
    """A row: its kind (network, fused, mean) and the names of its networks; a fused one has a head."""

    kind: str
    networks: tuple[str, ...]
    head: Head | None = None


@dataclass(frozen=True)
class Layout:
    """All networks and targets of a run by name, targets in the order in which they are listed; ``ships`` are
    those that the method is for.
    """

    networks: Mapping[str, Network]
    targets: Mapping[str, Target]
    ships: tuple[str, ...]

    def __getitem__(self, name: str) -> Target:
        """A target; raises `UsageError` that lists all of them."""
        if name not in self.targets:
            raise UsageError(f"There is no target '{name}' in this run. It has: {', '.join(self.targets)}.")
        return self.targets[name]

    @property
    def main(self) -> str:
        """The target that a file with every output calls ``logits``: the fused classifier, or the mean of
        the networks.
        """
        rows = self.targets.items()
        return next(
            (name for kind in (FUSED, MEAN) for name, row in rows if row.kind == kind),
            next(iter(self.targets)),
        )

    def archs(self, name: str) -> tuple[str, ...]:
        """The architectures that a target runs."""
        return tuple(self.networks[network].arch for network in self[name].networks)

    def document(self) -> dict[str, Any]:
        """The part of spec.json that `layout_of` reads."""
        return {
            "networks": {name: asdict(row) for name, row in self.networks.items()},
            "targets": {name: asdict(row) for name, row in self.targets.items()},
            "ships": list(self.ships),
        }


def layout_of(spec: Mapping[str, Any]) -> Layout:
    """What a run's spec.json says, also that of a run from before the table was in it."""
    if "targets" not in spec:
        return _before_the_table(spec)
    networks = {name: Network(**row) for name, row in spec["networks"].items()}
    targets = {name: _target(row) for name, row in spec["targets"].items()}
    return Layout(networks, targets, tuple(spec["ships"]))


def _target(row: Mapping[str, Any]) -> Target:
    head = row["head"] and Head(
        tuple(row["head"]["channels"]), row["head"]["operator"], row["head"]["weights"]
    )
    return Target(row["kind"], tuple(row["networks"]), head or None)


def _before_the_table(spec: Mapping[str, Any]) -> Layout:
    """Runs up to 0.2 named peers by their place in ``archs``, and told of a fused classifier in ``fused``."""
    networks = {f"peer{i}": Network(arch, f"peers.{i}.") for i, arch in enumerate(spec["archs"])}
    targets = {name: Target(NETWORK, (name,)) for name in networks}
    fused = spec.get("fused")
    if fused is not None:
        targets["fused"] = Target(
            FUSED, tuple(networks), Head(tuple(fused["channels"]), fused["operator"], "fused.")
        )
    targets["ensemble"] = Target(MEAN, tuple(networks))
    return Layout(networks, targets, ("fused",) if fused is not None else ("peer0",))


def top1_of(scores: Mapping[str, Any]) -> dict[str, float]:
    """Top-1 in % by target, from ``val`` or ``test`` of a run's summary.json, also of a run from before names
    were in it.
    """
    if "top1" in scores:
        return dict(scores["top1"])
    named = {f"peer{i}": value for i, value in enumerate(scores["peers"])}
    return named | {name: scores[name] for name in ("fused", "ensemble") if scores.get(name) is not None}
