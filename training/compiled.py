"""The blocks of networks, compiled for a record of the step (``--compile``).

A normalisation, what is added to it and its rectifier are three passes over a map, and in training more.
PyTorch's compiler (Inductor) makes few of them. It compiles one block at a time, and a block of the same
shapes once. No GPU has run this yet.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
AT_MOST = 256  # shapes of blocks


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """What repeats in a network: members of its sequences that have layers of their own, and sequences of
    layers alone; of both those that normalise.
    """
    found: list[nn.Module] = []
    for child in module.children():
        members = list(child.children())
        alone = type(child) is nn.Sequential and not any(list(each.children()) for each in members)
        block = isinstance(module, CONTAINERS) and type(child) is not nn.Sequential
        norms = any(isinstance(each, _BatchNorm) for each in child.modules())
        if norms and members and (alone or block):
            found.append(child)
        else:
            found += blocks_of(child)
    return found


class Compiled:
    """Blocks of a module that can be called in their compiled form."""

    def __init__(self, module: nn.Module) -> None:
        self.blocks = list({id(block): block for block in blocks_of(module)}.values())
        how: dict[str, Any] = {"fullgraph": True, "dynamic": False}
        self.calls = [torch.compile(block._call_impl, **how) for block in self.blocks]

    @contextmanager
    def instead(self) -> Iterator[None]:
        """While the context lasts, they are."""
        limits: dict[str, Any] = {"recompile_limit": AT_MOST, "accumulated_recompile_limit": 16 * AT_MOST}
        with torch._dynamo.config.patch(**limits), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
            warnings.filterwarnings("ignore", "TensorFloat32 tensor cores")  # they are off on purpose
            warnings.filterwarnings("ignore", category=DeprecationWarning)  # of the compiler's own imports
            for block, call in zip(self.blocks, self.calls, strict=True):
                block._compiled_call_impl = call
            try:
                yield
            finally:
                for block in self.blocks:
                    block._compiled_call_impl = None
