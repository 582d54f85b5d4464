"""The parts that methods are made of. A part reads named tensors and gives named tensors."""

from __future__ import annotations

from training.parts.copies import Copy
from training.parts.given import GivenTeacher, OpenedFile
from training.parts.joint import Auxiliary, FusedPart, Mean, Rule
from training.parts.mixing import Attention, Gate, Memory
from training.parts.part import Nodes, Part, run
from training.parts.peer import Peer, Trunk, share_modules

__all__ = [
    "Attention",
    "Auxiliary",
    "Copy",
    "FusedPart",
    "Gate",
    "GivenTeacher",
    "Mean",
    "Memory",
    "Nodes",
    "OpenedFile",
    "Part",
    "Peer",
    "Rule",
    "Trunk",
    "run",
    "share_modules",
]
