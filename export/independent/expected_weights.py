"""The numbers that a file of a run should hold, in float64 from the run's own weights; nothing of the
exporter is used.

BatchNorm is folded into the convolution before it, as every exported file has it: w' = w g / sqrt(v + eps)
and b' = (b - m) g / sqrt(v + eps) + beta, for the norm's weight g, bias beta, mean m and variance v.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Exact:
    """A tensor's value, and the sum of the sizes of the terms it was made of: rounding is a part of those.

    Same shape.
    """

    value: Array
    terms: Array

    @property
    def transposed(self) -> Exact:
        """The matrix the other way round, as a product with the weights on the right needs it."""
        return Exact(self.value.T, self.terms.T)


def exact_tensors(classifier: nn.Module, spec: Mapping[str, Sequence[float]], size: int) -> dict[str, Exact]:
    """Every tensor of a `Classifier` by each of its names, with BatchNorm folded where a convolution stands
    before it.

    ``spec`` gives ``mean`` and ``std`` per channel; ``size`` is the side of the pictures, for one pass that
    shows which norm reads which convolution.
    """
    # a tensor with two names stays one
    once = {id(tensor): _plain(tensor) for _, tensor in _named(classifier)}
    exact = {name: once[id(tensor)] for name, tensor in _named(classifier)}
    mean, std = (np.asarray(spec[key], np.float64).reshape(1, 3, 1, 1) for key in ("mean", "std"))
    exact |= {"scale": _of(1 / (255 * std)), "shift": _of(-mean / std)}
    names = _names_of(classifier)
    for kernel, norm in folded_pairs(classifier, size):
        weight, bias = _folded(kernel, norm)
        for name in names[id(kernel)]:
            exact |= {f"{name}.weight": weight, f"{name}.bias": bias}
    return exact


def _named(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _of(value: Array) -> Exact:
    return Exact(value, np.abs(value))


def _plain(tensor: Tensor) -> Exact:
    return _of(tensor.detach().cpu().double().numpy())


def _names_of(module: nn.Module) -> dict[int, list[str]]:
    """Every name of every module: one that stands in two places has two."""
    names: dict[int, list[str]] = {}
    for name, child in module.named_modules(remove_duplicate=False):
        names.setdefault(id(child), []).append(name)
    return names


def folded_pairs(classifier: nn.Module, size: int) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Each BatchNorm that alone reads the very tensor that a convolution returned, with that convolution."""
    returned: list[tuple[Tensor, nn.Conv2d]] = []
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []
    uses = _Uses()

    def after(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        returned.append((output, module))
        uses.times[id(output)] = 0  # whatever had this id before is no more

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.BatchNorm2d)
        pairs.extend((kernel, module) for tensor, kernel in returned if tensor is inputs[0])

    hooks = [m.register_forward_hook(after) for m in classifier.modules() if isinstance(m, nn.Conv2d)]
    hooks += [
        m.register_forward_pre_hook(before) for m in classifier.modules() if isinstance(m, nn.BatchNorm2d)
    ]
    try:
        with torch.no_grad(), uses:
            classifier(torch.zeros(1, size, size, 3, dtype=torch.uint8))
    finally:
        for hook in hooks:
            hook.remove()
    lone = {id(kernel) for output, kernel in returned if uses.times[id(output)] == 1}
    return list({id(norm): (kernel, norm) for kernel, norm in pairs if id(kernel) in lone}.values())


class _Uses(TorchFunctionMode):
    """How often each tensor, by its id, was given to an operation that gave a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.times: dict[int, int] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if list(_tensors(result)):
            for tensor in _tensors([*args, *(kwargs or {}).values()]):
                self.times[id(tensor)] = self.times.get(id(tensor), 0) + 1
        return result


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _folded(kernel: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Exact, Exact]:
    """Weight and bias of the convolution that answers as both."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain, shift, mean, variance = (
        tensor.detach().cpu().double().numpy()
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    )
    factor = gain / np.sqrt(variance + norm.eps)
    bias = np.zeros(len(factor)) if kernel.bias is None else kernel.bias.detach().cpu().double().numpy()
    weight = kernel.weight.detach().cpu().double().numpy() * factor.reshape(-1, 1, 1, 1)
    terms = np.abs(bias * factor) + np.abs(mean * factor) + np.abs(shift)
    return _of(weight), Exact((bias - mean) * factor + shift, terms)
