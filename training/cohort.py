"""Networks that learn together: parts in reading order, and what of them can be shipped.

Parts that do not read each other form a wave and can run side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from lfdeploy.errors import LfdeployError
from lfdeploy.models.backbone import Backbone
from lfdeploy.models.targets import FUSED, MEAN, NETWORK, Head, Layout, Network, Target
from training.parts import Copy, FusedPart, Nodes, Part, Peer, run
from training.parts.peer import parameters_of


class Cohort(nn.Module):
    """Parts by name, each after those that it reads, and the targets that they make up.

    ``ships``: the targets that
    the method is for. ``watched``: further logits whose accuracy is reported, of training-only parts. Every
    `Peer` but the ``hidden`` ones is a target.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        ships: Sequence[str] = (),
        hidden: Sequence[str] = (),
        watched: Sequence[str] = (),
        fusion_weight_decay: float | None = None,
    ) -> None:
        super().__init__()
        for part in parts:
            self.add_module(part.name, part)
        self.parts: dict[str, Part] = {part.name: part for part in parts}
        self.watched, self.fusion_weight_decay = tuple(watched), fusion_weight_decay
        self.layout = _layout(parts, ships, hidden)
        self.waves, self.tail = _waves(parts)

    @property
    def peers(self) -> list[Peer]:
        """The networks that learn, in order."""
        return [part for part in self.parts.values() if isinstance(part, Peer) and not isinstance(part, Copy)]

    @property
    def views(self) -> int:
        """How many differently augmented copies of each picture a step needs."""
        read = {name for part in self.parts.values() for name in part.reads if name.startswith("view")}
        return 1 + max(int(name.removeprefix("view")) for name in read)

    @property
    def networks(self) -> list[Backbone]:
        """The networks of the peers."""
        return [peer.network for peer in self.peers]

    @property
    def names(self) -> list[str]:
        """The logits that are reported: of targets, then of training-only parts."""
        return [*self.layout.targets, *self.watched]

    def forward(self, given: Nodes) -> Nodes:
        """All tensors from the given ones, part after part; a part whose reads are missing is left out."""
        return run(self.parts.values(), given)

    def see(self, images: Tensor) -> Nodes:
        """All tensors from normalised images (B, 3, H, W) alone, as in evaluation."""
        nodes: Nodes = self(self.views_of(images))
        return nodes

    def needed(self, names: Sequence[str]) -> set[str]:
        """Names of the parts without which these tensors are not to be had."""
        giver = {name: part for part in self.parts.values() for name in part.gives}
        found: set[str] = set()
        pending = [name.split(".")[0] for name in names]
        while pending:
            part = giver.get(pending.pop())
            if part is not None and part.name not in found:
                found.add(part.name)
                pending += [name.split(".")[0] for name in part.reads]
        return found

    def views_of(self, images: Tensor) -> Nodes:
        """The same images as every view."""
        return {f"view{i}": images for i in range(self.views)}

    def kept(self) -> dict[str, Tensor]:
        """Weights and buffers that belong to the run, by name; those of a given teacher do not."""
        given = tuple(f"{name}." for name, part in self.parts.items() if not part.saved)
        return {
            name: value for name, value in self.state_dict().items() if not name.startswith(given or ("\0",))
        }

    def sizes(self) -> dict[str, int]:
        """How many parameters each target has, and under ``trained`` how many learn, training-only parts
        included.
        """
        count = {name: value.numel() for name, value in self.named_parameters(remove_duplicate=False)}
        sizes = {"trained": sum(value.numel() for value in self.parameters() if value.requires_grad)}
        for target, row in self.layout.targets.items():
            begins = [self.layout.networks[name].weights for name in row.networks]
            begins += [row.head.weights] if row.head else []
            sizes[target] = sum(size for name, size in count.items() if name.startswith(tuple(begins)))
        return sizes

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Load what `kept` gave."""
        try:
            missing, unexpected = self.load_state_dict(dict(tensors), strict=False)
        except RuntimeError as error:  # of other shapes
            missing, unexpected = [], [str(error).splitlines()[-1].strip()]
        lost = [name for name in missing if name in self.kept()]
        if lost or unexpected:
            name = (lost or unexpected)[0]
            raise LfdeployError(
                f"The weights do not fit these networks ({name}): they are damaged, or another version of "
                "lfdeploy made them. Train again."
            )

    def hold(self, held: bool) -> None:
        """Keep all of the learning networks but their heads as it is, statistics too, or let it learn."""
        for peer in self.peers:
            peer.hold(held)

    def after_step(self, step: int) -> None:
        """Let every part follow the optimiser's step."""
        for part in self.parts.values():
            part.after_step(step)

    def parameter_groups(
        self,
        weight_decay: float,
        decay_norms: bool = True,
        fresh_lr: float = 1.0,
        fitted: Sequence[nn.Module] = (),
    ) -> list[dict[str, Any]]:
        """Fusion operators with their own, smaller weight decay (FFL's 1e-5); all else with the run's, but
        for norms and biases where they are not decayed. Frozen weights are in none.

        ``pace`` of a group: how much faster than the run's learning rate; ``fresh_lr`` for all that is not
        stem or stage of a peer, nor ``fitted``.
        """
        small = parameters_of([module for part in self.parts.values() for module in part.lightly_decayed()])
        own = weight_decay if self.fusion_weight_decay is None else self.fusion_weight_decay
        started = parameters_of([module for peer in self.peers for module in peer.leading])
        started |= parameters_of(fitted)
        groups: dict[tuple[bool, float, float], dict[str, Any]] = {}
        for parameter in self.parameters():
            if not parameter.requires_grad:
                continue
            light = id(parameter) in small
            decay = (own if light else weight_decay) if decay_norms or parameter.ndim > 1 else 0.0
            pace = 1.0 if id(parameter) in started else fresh_lr
            group = {"params": [], "weight_decay": decay, "pace": pace}
            groups.setdefault((light, decay, pace), group)["params"].append(parameter)
        return [groups[key] for key in sorted(groups, key=lambda key: (key[0], -key[1], key[2]))]


def _layout(parts: Sequence[Part], ships: Sequence[str], hidden: Sequence[str]) -> Layout:
    """Targets: every peer and copy that is not ``hidden``, every fused part, and the mean ``ensemble`` of
    the peers.
    """
    networks: dict[str, Network] = {}
    targets: dict[str, Target] = {}
    for part in parts:
        if isinstance(part, Peer) and part.name not in hidden:
            networks[part.name] = Network(part.network.arch, f"{part.name}.network.")
            targets[part.name] = Target(NETWORK, (part.name,))
    learning = tuple(part.name for part in parts if isinstance(part, Peer) and not isinstance(part, Copy))
    for part in parts:
        if isinstance(part, FusedPart):
            fusion = part.head.fusion
            head = Head(tuple(fusion.channels), fusion.operator, f"{part.name}.head.")
            targets[part.name] = Target(FUSED, tuple(read.split(".")[0] for read in part.reads), head)
    targets["ensemble"] = Target(MEAN, learning)
    return Layout(networks, targets, tuple(ships) or (next(iter(targets)),))


def _waves(parts: Sequence[Part]) -> tuple[list[list[Part]], list[Part]]:
    """Parts that can run side by side, wave after wave; and apart those without weights that only the
    loss reads.
    """
    read = {name.split(".")[0] for part in parts for name in part.reads}
    tail = [part for part in parts if not list(part.parameters()) and not read & set(part.gives)]
    left = [part for part in parts if part not in tail]
    gives = {name for part in parts for name in part.gives}
    waves: list[list[Part]] = []
    known: set[str] = set()
    while left:
        ready = [
            part
            for part in left
            if all(name.split(".")[0] in known or name.split(".")[0] not in gives for name in part.reads)
        ]
        if not ready:
            raise ValueError(f"parts read each other in a circle: {', '.join(part.name for part in left)}")
        waves.append(ready)
        known |= {name for part in ready for name in part.gives}
        left = [part for part in left if part not in ready]
    return waves, tail
