"""What a model file says of itself, read without executing it: inputs, outputs, and the facts that were put
into it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Value:
    """An input or output: its name, whether the batch is free, the other sizes (0 where not fixed), a
    numpy-like type.
    """

    name: str
    free_batch: bool
    rest: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Facts:
    """A file's signature, and ``told``: what `lone_facts` put into it; empty where it says nothing readable.

    ``told`` is None for a format that cannot hold words of its own.
    """

    kind: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    told: dict[str, Any] | None
