"""What a half precision does to a network by nature, measured without the exporter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from export.build.folding import fold
from export.independent.expected_weights import folded_pairs
from export.independent.halves import nature
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


@pytest.mark.slow
def test_timms_norms_are_parted_from_their_activations() -> None:
    """Else torch folds them itself, in the precision of the file."""
    pytest.importorskip("timm")
    from lfdeploy.models import create

    network = create("timm:mobilenetv3_small_050", 3).eval()
    kinds = {type(each) for each in network.modules() if isinstance(each, nn.BatchNorm2d)}
    assert kinds == {nn.BatchNorm2d}
    assert not any(isinstance(each, nn.BatchNorm2d) for each in fold(network, 64).modules())
