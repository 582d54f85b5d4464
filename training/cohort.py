"""Networks that learn together, and what joins them. Everything but the peers and the fused head is training-only.

A forward pass has steps that can run side by side: ``trunk`` (what peers share), every ``peer`` alone, every
``joint`` (a fusion with its head), and ``gather``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from lfdeploy.models.backbone import Backbone
from lfdeploy.models.fusion import FusedHead, align
from training.fusion import AuxiliaryTeacher
from training.losses import Nodes


class Cohort(nn.Module):
    """Peers, optional auxiliary teachers at middle taps, and an optional fused head.

    ``taps``: for each auxiliary teacher the stage index of every peer. ``share``: how many leading parts (the
    stem, then stages) all peers share; they are those of peer 0.
    """

    def __init__(
        self,
        peers: Sequence[Backbone],
        *,
        teachers: Sequence[AuxiliaryTeacher] = (),
        taps: Sequence[Sequence[int]] = (),
        fused: FusedHead | None = None,
        share: int = 0,
        detach_taps: bool = False,
        fusion_weight_decay: float | None = None,
    ) -> None:
        super().__init__()
        for peer in peers[1:]:
            if share > 0:
                peer.stem = peers[0].stem
            for stage in range(share - 1):
                peer.stages[stage] = peers[0].stages[stage]
        self.peers, self.aux, self.fused = nn.ModuleList(peers), nn.ModuleList(teachers), fused
        self.taps, self.share, self.detach_taps = [list(tap) for tap in taps], share, detach_taps
        self.fusion_weight_decay = fusion_weight_decay

    def trunk(self, images: Tensor) -> Tensor:
        """What every peer starts from: the images (B, 3, H, W), or the output of the shared parts."""
        if self.share == 0:
            return images
        first = cast(Backbone, self.peers[0])
        x: Tensor = first.stem(images)
        for stage in list(first.stages)[: self.share - 1]:
            x = stage(x)
        return x

    def peer(self, index: int, x: Tensor) -> list[Tensor]:
        """One peer's logits (B, K), then its maps at the middle taps and at the end, where anything reads them."""
        backbone = cast(Backbone, self.peers[index])
        maps = backbone.features(x, skip=self.share)
        skipped = max(0, self.share - 1)
        taps = [maps[tap[index] - skipped] for tap in self.taps]
        logits: Tensor = backbone.head(maps[-1])
        return [logits, *taps, *([maps[-1]] if self.fused is not None else [])]

    @property
    def joints(self) -> int:
        """How many modules read the maps of all peers: auxiliary teachers, then the fused head."""
        return len(self.aux) + (self.fused is not None)

    def joint(self, index: int, outputs: Sequence[Sequence[Tensor]]) -> Nodes:
        """The nodes of one joint from the peers' outputs; joints do not depend on each other."""
        found = align([out[1 + index] for out in outputs])
        read = [m.detach() if self.detach_taps else m for m in found]
        if index == len(self.aux):
            assert self.fused is not None
            return Nodes({"fused": self.fused(read)}, {})
        logits, fused = self.aux[index](read)
        maps = {f"peer{i}_aux{index}": m for i, m in enumerate(found)}
        return Nodes({f"aux{index}": logits}, {**maps, f"aux{index}": fused})

    def gather(self, logits: Sequence[Tensor], joined: Sequence[Nodes]) -> Nodes:
        """Every node: the peers' logits, their mean ``ensemble``, and those of the joints."""
        named = {f"peer{i}": z for i, z in enumerate(logits)}
        wide = [z.to(torch.promote_types(z.dtype, torch.float32)) for z in logits]
        named["ensemble"] = torch.stack(wide).mean(0)
        maps: dict[str, Tensor] = {}
        for nodes in joined:
            named.update(nodes.logits)
            maps.update(nodes.maps)
        return Nodes(named, maps)

    def forward(self, images: Tensor) -> Nodes:
        """All nodes, one after the other."""
        x = self.trunk(images)
        outputs = [self.peer(i, x) for i in range(len(self.peers))]
        return self.gather([out[0] for out in outputs], [self.joint(k, outputs) for k in range(self.joints)])

    @property
    def names(self) -> list[str]:
        """The nodes that are reported: peers, fused, ensemble, auxiliary teachers."""
        fused = ["fused"] if self.fused is not None else []
        return [f"peer{i}" for i in range(len(self.peers))] + fused + ["ensemble"] + [f"aux{i}" for i in range(len(self.aux))]

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Fusion operators with their own, smaller weight decay (FFL's 1e-5); peers and heads with the run's."""
        fusions: list[nn.Module] = [m for t in self.aux for m in (cast(AuxiliaryTeacher, t).fusion, cast(AuxiliaryTeacher, t).attention)]
        if self.fused is not None:
            fusions.append(self.fused)
        small = {id(p) for module in fusions for p in module.parameters()}
        own = weight_decay if self.fusion_weight_decay is None else self.fusion_weight_decay
        groups = [
            {"params": [p for p in self.parameters() if id(p) not in small], "weight_decay": weight_decay},
            {"params": [p for p in self.parameters() if id(p) in small], "weight_decay": own},
        ]
        return [group for group in groups if group["params"]]
