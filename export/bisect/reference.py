"""The clean graph that a file is compared with: a run's module, exported again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from export.bisect.halves import originals, widened
from export.bisect.nodes import Graph, mark_outputs, read
from export.build.graph import HALVES, in_precision, to_onnx
from lfdeploy.models.explain import explained
from lfdeploy.run import Run


@dataclass(frozen=True)
class Reference:
    """The clean graph of a module: as exported, as nodes, the layer of each node, the same with fp32 weights,
    the fp32 module.
    """

    precision: str
    proto: Any
    graph: Graph
    layers: Mapping[str, str]
    exact: Any
    classifier: Any

    @cached_property
    def runnable(self) -> Any:
        """The graph for a CPU: half-precision weights, fp32 arithmetic."""
        return widened(self.proto) if self.precision in HALVES else self.proto


def reference(
    run: Run,
    target: str,
    precision: str,
    size: int,
    profile: tuple[int, int, int],
    t: float | None = None,
    explain: bool = False,
) -> Reference:
    """Export a run's target again, with the temperature ``t`` and the heat map; int8 is measured
    against fp32.
    """
    import onnx

    precision = "fp32" if precision == "int8" else precision
    whole = run.classifier(target)
    scopes: dict[str, str] = {}

    def made(p: str) -> Any:
        alone = in_precision(whole, p, size, t)
        return explained(alone, target, run.spec) if explain else alone

    proto = onnx.load_from_string(to_onnx(made(precision), size, profile, {}, scopes))
    mark_outputs(proto)
    graph, exact = read(proto), proto
    wide = made("fp32")
    if precision in HALVES:
        exact = widened(proto, originals(wide.state_dict(), precision))
    return Reference(precision, proto, graph, _layers(graph, scopes), exact, wide)


def _layers(graph: Graph, scopes: Mapping[str, str]) -> dict[str, str]:
    """Node name to the module's name for it; before the network, ``prologue``; behind it, ``outputs``."""
    inside = [i for i, op in enumerate(graph.ops) if scopes.get(op.name, "").startswith("network")]
    found: dict[str, str] = {}
    makers = graph.makers()
    for index, op in enumerate(graph.ops):
        scope = scopes.get(op.name, "")
        above = next(
            (found[graph.ops[makers[name]].name] for name in op.inputs if name in makers), "prologue"
        )
        if scope.startswith("network"):
            found[op.name] = scope.removeprefix("network").lstrip(".") or "network"
        else:  # an optimiser's node without a scope belongs to what it reads
            found[op.name] = (
                "prologue" if not inside or index < inside[0] else "outputs" if index > inside[-1] else above
            )
    return found
