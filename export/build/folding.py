"""BatchNorm folded into the convolution before it, where nothing else reads that convolution."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any, cast

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from lfdeploy.errors import LfdeployError


class Readers(TorchFunctionMode):
    """How many operations read each tensor, by its id: a map that others read too must not change."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[int] = Counter()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call, and count the tensors that were given, unless only a property of theirs was asked for."""
        answer = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves(answer)):
            given = tree_leaves((args, kwargs or {}))
            self.counts.update({id(leaf) for leaf in given if isinstance(leaf, torch.Tensor)})
        return answer


def fold(network: nn.Module, size: int) -> nn.Module:
    """Every BatchNorm that reads a convolution's output folded into it, in fp32, in a copy of an
    eval-mode network.

    Pairs are found by running the network once: a BatchNorm whose input is the very tensor that a convolution
    returned, and that nothing else reads. The folded network must answer as before, or an error says so.
    """
    made = copy.deepcopy(network).eval()
    example = torch.linspace(-2, 2, 2 * 3 * size * size).reshape(2, 3, size, size)
    with torch.no_grad():
        before, pairs = _pairs(made, example)
        for conv, norm in pairs:
            kernel = cast(nn.Conv2d, made.get_submodule(conv))
            norm_layer = cast(nn.BatchNorm2d, made.get_submodule(norm))
            made.set_submodule(conv, nn.utils.fuse_conv_bn_eval(kernel, norm_layer))
            made.set_submodule(norm, nn.Identity())
        after = _answers(made, example)
    spread = before.abs().max().clamp_min(1e-6)
    if not (after - before).abs().max() <= 1e-4 * spread:
        raise LfdeployError("folding BatchNorm changes this network's answers; it cannot be exported")
    return made


def _answers(network: nn.Module, example: torch.Tensor) -> torch.Tensor:
    outputs = network(example)
    return torch.stack(outputs) if isinstance(outputs, tuple) else outputs


def _pairs(network: nn.Module, example: torch.Tensor) -> tuple[torch.Tensor, list[tuple[str, str]]]:
    """The network's answers, and the names of convolutions with those of the norms that alone read them."""
    returned: list[tuple[torch.Tensor, str]] = []
    pairs: list[tuple[str, str]] = []
    readers = Readers()

    def after_conv(name: str) -> Any:
        def note(module: nn.Module, args: Any, output: torch.Tensor) -> None:
            returned.append((output, name))
            readers.counts.pop(id(output), None)  # of a tensor that is no more, whose place this one took

        return note

    def before_norm(name: str) -> Any:
        return lambda module, args: pairs.extend(
            (conv, name) for tensor, conv in returned if tensor is args[0]
        )

    hooks = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(after_conv(name)))
        elif type(module) is nn.BatchNorm2d:
            hooks.append(module.register_forward_pre_hook(before_norm(name)))
    with readers:
        answers = _answers(network, example)
    for hook in hooks:
        hook.remove()
    shared = {conv for output, conv in returned if readers.counts[id(output)] > 1}
    return answers, [(conv, norm) for conv, norm in pairs if conv not in shared]
