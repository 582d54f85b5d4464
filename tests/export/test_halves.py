"""What a half precision does to a network by nature, measured without the exporter."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from export.build.folding import fold
from export.independent.expected_weights import folded_pairs
from export.independent.halves import _round_weights, nature
from export.parity.bounds import TWIN, twin_bound
from lfdeploy.models.deploy import Classifier

FINE = 1 + 2.0**-12  # fp16 has no number between 1 and 1 + 2**-10


class Steps(nn.Module):
    """A network of nothing but one operation."""

    def __init__(self, operation: str) -> None:
        super().__init__()
        self.operation = operation
        self.relu, self.relu_in_place = nn.ReLU(), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3)."""
        x = x.mean((2, 3)) * 0 + FINE
        if self.operation == "sum in place":
            x += 1.0
            return x
        return {"plain": self.relu, "in place": self.relu_in_place, "function": torch.relu}[self.operation](x)  # type: ignore[operator,no-any-return]


@pytest.mark.parametrize("operation", ["plain", "in place", "function", "sum in place"])
def test_every_operation_is_rounded(operation: str) -> None:
    classifier = Classifier(Steps(operation), [0.5] * 3, [0.25] * 3).eval()
    pictures = np.zeros((2, 4, 4, 3), np.uint8)
    with torch.inference_mode():
        logits = classifier(torch.from_numpy(pictures))[0].numpy()
    found = nature(classifier, "fp16", pictures, logits, np.ones((2, 1), np.float32))
    assert found.difference == pytest.approx(2.0**-12, rel=1e-3)
    assert found.activations == found.difference  # there are no weights


def test_bf16_on_a_cpu_rounds_no_activation() -> None:
    assert twin_bound("bf16", 0.01) == TWIN
    assert twin_bound("fp16", 0.01) == pytest.approx(0.015)
    assert twin_bound("fp16", 1e-5) == TWIN
    assert twin_bound("fp16", 1.0) == 3e-2


class Padded(nn.Conv2d):
    """A convolution of another class, as timm has them."""


def test_a_convolution_of_a_subclass_is_folded_by_both() -> None:
    """The exporter and what judges it agree on which norms vanish."""
    layers = [Padded(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 64, 2)]
    network = nn.Sequential(*layers).eval()
    assert not any(isinstance(each, nn.BatchNorm2d) for each in fold(network, 8).modules())
    assert len(folded_pairs(Classifier(network, [0.5] * 3, [0.25] * 3).eval(), 8)) == 1


def test_a_kernel_is_rounded_as_it_is_folded() -> None:
    """The file holds that one: rounded apart from its norm it would be another network."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    with torch.no_grad():
        norm.running_var.copy_(torch.tensor([1e-3, 0.7, 3.0, 50.0]))  # type: ignore[operator]
        norm.weight.copy_(torch.tensor([0.3, -1.7, 0.0, 2.9]))
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), norm, nn.Flatten(), nn.Linear(4 * 64, 2)).eval()
    folded, apart, together = fold(network, 8), copy.deepcopy(network), copy.deepcopy(network)
    pairs = folded_pairs(Classifier(together, [0.5] * 3, [0.25] * 3).eval(), 8)
    for each, joined in ((folded, []), (apart, []), (together, pairs)):
        _round_weights(each, joined, torch.float16)
    x = torch.rand(8, 3, 8, 8)
    with torch.inference_mode():
        file, other, ours = (each(x) for each in (folded, apart, together))
    assert (file - ours).abs().max() < 1e-5 < 1e-4 < (file - other).abs().max()


@pytest.mark.slow
def test_timms_norms_are_parted_from_their_activations() -> None:
    """Else torch folds them itself, in the precision of the file."""
    pytest.importorskip("timm")
    from lfdeploy.models import create

    network = create("timm:mobilenetv3_small_050", 3).eval()
    kinds = {type(each) for each in network.modules() if isinstance(each, nn.BatchNorm2d)}
    assert kinds == {nn.BatchNorm2d}
    assert not any(isinstance(each, nn.BatchNorm2d) for each in fold(network, 64).modules())
