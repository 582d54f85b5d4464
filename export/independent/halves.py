"""What fp16 and bf16 do to a network by nature: the result of every operation of the run's own module rounded
to the format.

Nothing of the exporter is used, and nothing is computed in half precision: rounding is all that the
format adds.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from export.independent.expected_weights import Array, folded_pairs

KINDS = {"fp16": torch.float16, "bf16": torch.bfloat16}
UNIT = {"fp16": 2.0**-11, "bf16": 2.0**-8}  # unit roundoff
BATCH = 32


@dataclass(frozen=True)
class Rounded:
    """``overflows`` counts non-finite logits. ``difference`` is the largest distance from fp32 and
    ``activations`` that from the network whose weights alone are rounded, by each picture's scale.
    """

    overflows: int
    difference: float
    activations: float


def rounded(precision: str, numbers: Mapping[str, Array], prologue: Collection[str]) -> dict[str, Array]:
    """Numbers by name as the format holds them; those of the prologue stay fp32."""
    kind = KINDS[precision]
    return {
        name: value
        if name in prologue
        else torch.from_numpy(np.asarray(value, np.float32)).to(kind).double().numpy()
        for name, value in numbers.items()
    }


def nature(
    classifier: nn.Module,
    precision: str,
    pictures: NDArray[np.uint8],
    logits: NDArray[np.float32],
    scale: NDArray[np.float32],
) -> Rounded:
    """The network with its weights and every operation's result rounded, on uint8 pictures (N, H, W, 3).

    ``logits`` (N, K) are those of fp32 and ``scale`` (N, 1) what a picture's differences are divided by.
    """
    kind = KINDS[precision]
    network = copy.deepcopy(classifier)
    body = network.get_submodule("network")
    pairs = folded_pairs(network, pictures.shape[1])
    _round_weights(body, pairs, kind)
    by_weights = answers(network, pictures)
    rounding = _Rounding(kind)
    body.register_forward_pre_hook(lambda *_: rounding.switch(True))
    body.register_forward_hook(lambda *_: rounding.switch(False))
    for kernel, _ in pairs:  # its convolution gives the norm's output
        kernel.register_forward_pre_hook(lambda *_: rounding.switch(False))
        kernel.register_forward_hook(lambda *_: rounding.switch(True))
    with rounding:
        half = answers(network, pictures)
    overflows = int((~np.isfinite(half)).sum())
    if overflows:
        return Rounded(overflows, float("inf"), float("inf"))
    apart = [float((np.abs(half - other) / scale).max()) for other in (logits, by_weights)]
    return Rounded(0, *apart)


def _round_weights(body: nn.Module, pairs: Iterable[tuple[nn.Module, nn.Module]], kind: torch.dtype) -> None:
    """Round what has more than one dimension; a kernel that a norm is folded into as the folded one is."""
    norms: dict[int, Any] = {id(kernel): norm for kernel, norm in pairs}
    with torch.no_grad():
        for module in body.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.ndim < 2:
                    continue
                factor, norm = torch.ones(()), norms.get(id(module))
                if norm is not None and name == "weight":
                    factor = (norm.running_var + norm.eps).rsqrt() * (
                        1 if norm.weight is None else norm.weight
                    )
                    factor = torch.where(factor == 0, 1, factor).reshape(-1, *[1] * (parameter.ndim - 1))
                parameter.copy_((parameter * factor).to(kind).to(parameter.dtype) / factor)


class _Rounding(TorchDispatchMode):
    """While it is on, the result of every operation is rounded, those of plain functions too."""

    def __init__(self, kind: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kind, self.on = kind, False

    def switch(self, on: bool) -> None:
        self.on = on

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if not self.on:
            return result
        if not function._schema.is_mutable:
            return tree_map_only(Tensor, self._round, result)
        for tensor in tree_leaves(result):  # what an operation in place returns here is not looked at
            tensor.copy_(self._round(tensor))
        return result

    def _round(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.kind).to(tensor.dtype) if tensor.is_floating_point() else tensor


def largest_activation(classifier: nn.Module, pictures: NDArray[np.uint8]) -> tuple[str, float]:
    """The layer whose output or input reaches furthest in fp32, and how far: fp16
    holds nothing above 65,504.
    """
    reach: dict[str, float] = {}
    pairs = folded_pairs(classifier, pictures.shape[1])
    kernels, norms = {id(kernel) for kernel, _ in pairs}, {id(norm) for _, norm in pairs}

    def after(name: str) -> Any:
        def look(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            # what lies between the two of a folded pair is in no file
            seen = () if id(module) in norms else inputs
            seen = seen if id(module) in kernels else (*seen, output)
            sizes = [float(tensor.abs().max()) for tensor in seen if isinstance(tensor, Tensor)]
            reach[name] = max([reach.get(name, 0.0), *sizes])

        return look

    named = classifier.get_submodule("network").named_modules()
    hooks = [m.register_forward_hook(after(name)) for name, m in named if not list(m.children())]
    try:
        answers(classifier, pictures)
    finally:
        for hook in hooks:
            hook.remove()
    return max(reach.items(), key=lambda item: item[1])


def answers(classifier: nn.Module, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A module's logits (N, K)."""
    parts = []
    with torch.inference_mode():
        for start in range(0, len(pictures), BATCH):
            part = torch.from_numpy(np.ascontiguousarray(pictures[start : start + BATCH]))
            parts.append(classifier(part)[0].float().numpy())
    return np.concatenate(parts)
