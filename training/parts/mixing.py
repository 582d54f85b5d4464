"""Parts with few weights that mix logits or remember vectors: ONE's gate, OKDDip's
attention, CRD's memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.parts.part import Nodes, Part, wide


class Gate(Part):
    """The gated sum of branches' logits (B, K); weights from the shared map: mean, linear, BatchNorm,
    ReLU, softmax.

    ONE (Lan, Zhu, Gong 2018), section 3.1 and its released code.
    """

    def __init__(self, name: str, trunk: str, channels: int, branches: Sequence[str]) -> None:
        super().__init__(name, (trunk, *branches))
        self.gate = nn.Sequential(
            nn.Linear(channels, len(branches)), nn.BatchNorm1d(len(branches)), nn.ReLU()
        )

    def forward(self, trunk: Tensor, *logits: Tensor) -> Nodes:
        """Gated logits."""
        weights = torch.softmax(wide(self.gate(trunk.mean((2, 3)))), dim=1)
        return {self.name: (weights[:, :, None] * torch.stack([wide(each) for each in logits], 1)).sum(1)}


class Attention(Part):
    """For each auxiliary peer its own mix of all their logits:

    ``mix_PEER`` (B, K), weights by attention between their vectors.

    OKDDip (Chen et al. 2020), section 3.2 and its released code: queries and keys of C / 8 channels without
    bias, softmax of the dot products, unscaled. The logits that are mixed are constants; the attention
    learns, through an edge that says so.
    """

    def __init__(self, peers: Sequence[str], channels: int) -> None:
        super().__init__("attention", (*(f"{peer}.vector" for peer in peers), *peers))
        self.peers, self.gives = tuple(peers), tuple(f"mix_{peer}" for peer in peers)
        self.query = nn.Linear(channels, max(1, channels // 8), bias=False)
        self.key = nn.Linear(channels, max(1, channels // 8), bias=False)

    def weights(self, vectors: Sequence[Tensor]) -> Tensor:
        """(B, M, M): row a says how much each peer counts for peer a; rows sum to 1."""
        stacked = torch.stack(list(vectors), 1)
        return torch.softmax(wide(self.query(stacked) @ self.key(stacked).transpose(1, 2)), dim=2)

    def forward(self, *tensors: Tensor) -> Nodes:
        """The mixes."""
        count = len(self.peers)
        logits = torch.stack([wide(each) for each in tensors[count:]], 1).detach()
        mixes = self.weights(tensors[:count]) @ logits
        return {f"mix_{peer}": mixes[:, i] for i, peer in enumerate(self.peers)}


class Memory(Part):
    """Contrast of a student's vector with its teacher's against remembered teacher vectors of other pictures.

    CRD (Tian, Krishnan, Isola 2020), in the form of a softmax over one positive and ``negatives`` others
    (InfoNCE), which their equation 18 approximates. Gives logits ``NAME`` (B, 1 + negatives), whose right
    answer is always entry 0.
    """

    draws = True

    def __init__(
        self,
        name: str,
        reads: Sequence[str],
        channels: Sequence[int],
        pictures: int,
        *,
        negatives: int,
        width: int,
        temperature: float,
    ) -> None:
        super().__init__(name, (*reads, "index"))
        self.teacher, self.student = (nn.Linear(count, width) for count in channels)
        self.negatives, self.temperature = negatives, temperature
        self.memory: Tensor
        self.register_buffer("memory", F.normalize(torch.randn(pictures, width), dim=1))
        self._latest: tuple[Tensor, Tensor] | None = None

    def forward(self, teacher: Tensor, student: Tensor, index: Tensor) -> Nodes:
        """Similarities over the temperature."""
        teacher, student = (
            F.normalize(wide(self.teacher(teacher)), dim=1),
            F.normalize(wide(self.student(student)), dim=1),
        )
        drawn = torch.randint(len(self.memory), (self.negatives,), device=student.device)
        others = student @ self.memory[drawn].T
        mine = index[:, None] == drawn[None]  # its own picture is no negative
        others = others.masked_fill(mine, float("-inf"))
        self._latest = index, teacher.detach()
        return {
            self.name: torch.cat([(student * teacher).sum(1, keepdim=True), others], 1) / self.temperature
        }

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Remember this step's teacher vectors, half and half with those of the epoch before."""
        if self._latest is not None:
            index, vectors = self._latest
            self.memory[index] = F.normalize(
                0.5 * self.memory[index] + 0.5 * vectors.to(self.memory.dtype), dim=1
            )
