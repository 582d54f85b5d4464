"""Planted faults in a file with every output: what can go wrong only where members share one file."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from export.build.graph import METADATA
from export.parity.contract import lone_facts
from lfdeploy.models.deploy import Classifier

Graph = onnx.ModelProto


def swap(one: str, other: str) -> Callable[[Graph], None]:
    """Two outputs change names; whatever reads them goes on reading the same tensors."""
    names = {one: other, other: one}

    def change(model: Graph) -> None:
        for node in model.graph.node:
            node.input[:] = [names.get(n, n) for n in node.input]
            node.output[:] = [names.get(n, n) for n in node.output]

    return change


def behind(output: str, *steps: tuple[Any, ...]) -> Callable[[Graph], None]:
    """Nodes (kind, constants, attributes) between an output and what gave it; other readers keep what
    they read.
    """

    def change(model: Graph) -> None:
        for node in model.graph.node:
            for names in (node.input, node.output):
                names[:] = ["its own" if n == output else n for n in names]
        read = "its own"
        for number, (kind, constants, attributes) in enumerate(steps):
            made = output if number == len(steps) - 1 else f"step {number}"
            names = [f"constant {number} {i}" for i in range(len(constants))]
            model.graph.initializer.extend(
                numpy_helper.from_array(np.asarray(c), n) for c, n in zip(constants, names, strict=True)
            )
            model.graph.node.append(helper.make_node(kind, [read, *names], [made], **attributes))
            read = made

    return change


def as_half(model: Graph) -> None:
    behind("logits_peer1", ("Cast", [], {"to": TensorProto.FLOAT16}))(model)
    next(
        o for o in model.graph.output if o.name == "logits_peer1"
    ).type.tensor_type.elem_type = TensorProto.FLOAT16


def nan_when_sure(model: Graph) -> None:
    """NaN in the rare pictures of which the peer is very sure, else exact: + 0 * sqrt(limit - logits)."""
    behind("logits_peer1", ("Identity", [], {}))(model)
    model.graph.node[-1].output[0] = "plain"
    limit, nothing = (
        numpy_helper.from_array(np.float32(v), n) for v, n in ((LIMIT, "limit"), (0, "nothing"))
    )
    model.graph.initializer.extend([limit, nothing])
    model.graph.node.extend(
        [
            helper.make_node("Sub", ["limit", "plain"], ["room"]),
            helper.make_node("Sqrt", ["room"], ["root"]),
            helper.make_node("Mul", ["root", "nothing"], ["zero"]),
            helper.make_node("Add", ["plain", "zero"], ["logits_peer1"]),
        ]
    )


LIMIT = 5.0  # the tiny run's logits reach beyond it on some pictures only; the test sees to that


def batch_mean(model: Graph) -> None:
    """A peer's logits centred a little over the batch."""
    behind("logits_peer1", ("Identity", [], {}))(model)
    model.graph.node[-1].output[0] = "plain"
    model.graph.initializer.extend(
        [numpy_helper.from_array(np.array([0]), "rows"), numpy_helper.from_array(np.float32(0.01), "small")]
    )
    model.graph.node.extend(
        [
            helper.make_node("ReduceMean", ["plain", "rows"], ["over rows"], keepdims=1),
            helper.make_node("Mul", ["over rows", "small"], ["leak"]),
            helper.make_node("Sub", ["plain", "leak"], ["logits_peer1"]),
        ]
    )


def drop(output: str) -> Callable[[Graph], None]:
    return lambda model: model.graph.output.remove(next(o for o in model.graph.output if o.name == output))


class Rewired(nn.Module):
    """The network's answers, put together otherwise."""

    def __init__(self, network: nn.Module, change: Callable[..., tuple[torch.Tensor, ...]]) -> None:
        super().__init__()
        self.network, self.change = network, change

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.change(*self.network(images))


def rewire(change: Callable[..., tuple[torch.Tensor, ...]]) -> Callable[[Classifier], None]:
    """``change`` takes (fused, peer0, peer1, ensemble) and gives four answers."""

    def edit(c: Classifier) -> None:
        c.network = Rewired(c.network, change)

    return edit


class Reversed(nn.Module):
    """A fused head that reads the peers' maps in the other order."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        found: torch.Tensor = self.head(maps[::-1])
        return found


def swapped_maps(c: Classifier) -> None:
    c.network.head = Reversed(c.network.head)  # type: ignore[arg-type]


def head_of(peer: int, change: Callable[[torch.Tensor], object]) -> Callable[[Classifier], None]:
    """A change to the last matrix of a peer."""

    def edit(c: Classifier) -> None:
        last = [m for m in c.network.peers[peer].modules() if isinstance(m, nn.Linear)][-1]  # type: ignore[index, union-attr]
        with torch.no_grad():
            change(last.weight)

    return edit


def one_peer_twice(c: Classifier) -> None:
    c.network.peers[1] = copy.deepcopy(c.network.peers[0])  # type: ignore[index, operator]


def half_backbone(c: Classifier) -> None:
    c.network.peers[1].half().float()  # type: ignore[index, union-attr]


def says_ensemble(everywhere: bool) -> Callable[[Any], None]:
    """The manifest calls the main output that of the ensemble; so may the file."""

    def mutate(subject: Any) -> None:
        subject.seal(main="ensemble")
        if everywhere:
            told = json.dumps(lone_facts(subject.manifest))
            subject.graph(lambda model: onnx.helper.set_model_props(model, {METADATA: told}))

    return mutate


def columns(*order: int) -> tuple[Any, ...]:
    return ("Gather", [np.array(order)], {"axis": 1})


SWAPPED = (0, 2, 1, 3, 4, 5, 6, 7, 8, 9)

#: name: (stage, what the line names, how to break it); None names the main output, whose checks bear no name
MEMBER_MUTANTS: dict[str, tuple[str, str | None, Callable[[Any], None]]] = {
    "members: two peers' outputs swapped": (
        "values",
        "peer0",
        lambda s: s.graph(swap("logits_peer0", "logits_peer1")),
    ),
    "members: a peer is the other one": ("values", None, lambda s: s.export(one_peer_twice)),
    "members: one weight of a peer's head": (
        "values",
        "peer1",
        lambda s: s.export(head_of(1, lambda w: w[3, 5].mul_(1.05))),
    ),
    "members: a peer's backbone rounded to half": ("values", None, lambda s: s.export(half_backbone)),
    "members: ensemble is the sum": (
        "values",
        "ensemble",
        lambda s: s.export(rewire(lambda f, a, b, e: (f, a, b, a + b))),
    ),
    "members: ensemble is the fused": (
        "values",
        "ensemble",
        lambda s: s.export(rewire(lambda f, a, b, e: (f, a, b, f + 0 * e))),
    ),
    "members: a peer's output missing": ("names", "outputs", lambda s: s.graph(drop("logits_peer1"))),
    "members: a peer's classes swapped": (
        "labels",
        "peer1",
        lambda s: s.graph(behind("logits_peer1", columns(*SWAPPED))),
    ),
    "members: the ensemble's classes swapped": (
        "labels",
        "ensemble",
        lambda s: s.graph(behind("logits_ensemble", columns(*SWAPPED))),
    ),
    "members: a peer without its last class": ("shapes", "logits_peer1", lambda s: s.graph(short)),
    "members: fused from swapped maps": ("values", None, lambda s: s.export(swapped_maps)),
    "members: NaN in a peer on few pictures": ("finite", "peer1", lambda s: s.graph(nan_when_sure)),
    "members: a peer in fp16": ("dtypes", "logits_peer1", lambda s: s.graph(as_half)),
    "members: a peer's batch leaks": ("values", "peer1", lambda s: s.graph(batch_mean)),
    "members: main and ensemble swapped": (
        "values",
        None,
        lambda s: s.export(rewire(lambda f, a, b, e: (e, a, b, f))),
    ),
    "members: manifest says ensemble": ("file", "main", says_ensemble(False)),
    "members: manifest and file say ensemble": ("names", "main", says_ensemble(True)),
}


def short(model: Graph) -> None:
    ends = [np.array([0]), np.array([9]), np.array([1])]
    behind("logits_peer1", ("Slice", ends, {}))(model)
    next(o for o in model.graph.output if o.name == "logits_peer1").type.tensor_type.shape.dim[
        1
    ].dim_value = 9


#: The same where bounds are looser.
MEMBER_MUTANTS_IN: dict[str, dict[str, tuple[str, str | None, Callable[[Any], None]]]] = {
    "fp16": {
        "members, fp16: one weight of a peer's head": (
            "values",
            "peer1",
            lambda s: s.export(head_of(1, lambda w: w[3, 5].mul_(1.3))),
        ),
        "members, fp16: the ensemble's classes swapped": (
            "labels",
            "ensemble",
            lambda s: s.graph(behind("logits_ensemble", columns(*SWAPPED))),
        ),
    },
    "int8": {
        "members, int8: two peers' outputs swapped": (
            "values",
            "peer0",
            lambda s: s.graph(swap("logits_peer0", "logits_peer1")),
        ),
        "members, int8: ensemble 5 % too large": (
            "values or graph",
            "(logits_)?ensemble: ",
            lambda s: s.graph(behind("logits_ensemble", ("Mul", [np.float32(1.05)], {}))),
        ),
        "members, int8: a peer's logits 1 % too large": (
            "graph",
            "logits_peer1: without rounding",
            lambda s: s.graph(behind("logits_peer1", ("Mul", [np.float32(1.01)], {}))),
        ),
        "members, int8: a peer's classes swapped": (
            "labels",
            "peer1",
            lambda s: s.graph(behind("logits_peer1", columns(*SWAPPED))),
        ),
    },
}
