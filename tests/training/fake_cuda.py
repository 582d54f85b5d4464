"""CUDA tensors that hold no numbers: a GPU's steps run on a machine without one, and copies are counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode


class Traffic(TorchDispatchMode):
    """``copies`` counts tensors that move between devices, by direction, and values that the host ``read``.

    ``operators`` counts what runs on the GPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.copies: Counter[str] = Counter()
        self.operators: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(function.overloadpacket).removeprefix("aten.")
        given = [value for value in args if isinstance(value, torch.Tensor)]
        if name == "_local_scalar_dense" and given[0].device.type == "cuda":
            self.copies["read"] += 1
            return 0.0
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            source = given[-1].device.type if given else result.device.type
            if name in ("_to_copy", "copy_") and source != result.device.type:
                self.copies[f"{source} to {result.device.type}"] += 1
            if result.device.type == "cuda":
                self.operators[name] += 1
        return result


@contextmanager
def fake_cuda() -> Iterator[Traffic]:
    """A fake GPU, and what happens on it."""
    with FakeTensorMode(allow_non_fake_inputs=True), Traffic() as traffic:
        yield traffic
