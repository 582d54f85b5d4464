"""What a recorded step need not do once for every layer: cast its weights, cast their gradients, count its
batches.

Autocast casts each weight by a kernel of its own, twice a step with the gradient. Here all are cast at once:
the same numbers by a hundredth of the kernels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

CAST = (nn.Conv1d, nn.Conv2d, nn.Linear)  # layers whose operations autocast computes in the shorter type


class Shadow:
    """The shorter copies of a network's weights, and the counters of its BatchNorms.

    ``dtype``: that of autocast; for fp32 there are no copies.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        self.weights: list[Tensor] = []
        self.copies: list[nn.Parameter] = []
        self.places: list[tuple[nn.Module, str, int]] = []
        seen: dict[int, int] = {}
        for module in network.modules() if dtype != torch.float32 else ():
            for name, weight in module._parameters.items() if isinstance(module, CAST) else ():
                if weight is None or weight.dtype != torch.float32:
                    continue
                if id(weight) not in seen:
                    seen[id(weight)] = len(self.weights)
                    self.weights.append(weight)
                    self.copies.append(nn.Parameter(weight.detach().to(dtype), weight.requires_grad))
                self.places.append((module, name, seen[id(weight)]))
        norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.momentum is not None]
        self.counters = [
            (norm, norm.num_batches_tracked)
            for norm in norms
            if norm.training and norm.num_batches_tracked is not None
        ]

    @contextmanager
    def instead(self) -> Iterator[None]:
        """While the context lasts, layers have the copies, and norms do not count. Afterwards the weights
        have the gradients, added to what they have, and all norms have counted one batch.
        """
        with torch.no_grad():
            if self.copies:
                torch._foreach_copy_([copy.detach() for copy in self.copies], self.weights)
        for module, name, number in self.places:
            module._parameters[name] = self.copies[number]
        for norm, _ in self.counters:
            norm.num_batches_tracked = None
        try:
            yield
        finally:
            for module, name, number in self.places:
                module._parameters[name] = self.weights[number]  # type: ignore[assignment]
            for norm, counter in self.counters:
                norm.num_batches_tracked = counter
        self._hand_over()

    @torch.no_grad()
    def _hand_over(self) -> None:
        pairs = [(w, c) for w, c in zip(self.weights, self.copies, strict=True) if c.grad is not None]
        wide = [torch.empty_like(weight) for weight, _ in pairs]
        if pairs:
            torch._foreach_copy_(wide, [copy.grad for _, copy in pairs])  # type: ignore[misc]
        for (weight, copy), gradient in zip(pairs, wide, strict=True):
            weight.grad = gradient if weight.grad is None else weight.grad + gradient
            copy.grad = None
        if self.counters:
            torch._foreach_add_([counter for _, counter in self.counters], 1)
