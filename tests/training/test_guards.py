"""What is refused before a training begins."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from lfdeploy.config import TrainConfig
from lfdeploy.errors import LfdeployError
from lfdeploy.models import create
from training import train
from training.cohort import Cohort
from training.guards import check_batch_of_one
from training.methods import METHODS
from training.methods.method import Given


def cohort_of(method: str, archs: list[str]) -> Cohort:
    row = METHODS[method]
    return row.build(Given([create(arch, 2) for arch in archs], 2, 32, row.options()))


def test_a_batch_of_one_where_maps_are_1x1(capsys: pytest.CaptureFixture[str]) -> None:
    """Refused; the check itself changes neither the weights nor the next random number."""
    deep, flat = (cohort_of("lfmkd", [arch] * 2) for arch in ("mobilenet_v3_small", "resnet8"))
    picture = torch.zeros(1, 3, 32, 32)
    before = {name: value.clone() for name, value in deep.state_dict().items()}
    state = torch.get_rng_state()
    with pytest.raises(LfdeployError, match="--batch-size 1 is too small"):
        check_batch_of_one(deep, picture, "--batch-size 1")
    capsys.readouterr()
    check_batch_of_one(flat, picture, "--batch-size 1")
    assert "Note: with --batch-size 1 BatchNorm learns from one picture" in capsys.readouterr().err
    check_batch_of_one(deep, torch.zeros(2, 3, 32, 32), "--batch-size 2")
    assert all(torch.equal(value, before[name]) for name, value in deep.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ["a\nb", "caf\udce9"])
def test_class_names_that_are_no_line(name: str, tmp_path: Path) -> None:
    for label in (name, "b"):
        (tmp_path / "d" / label).mkdir(parents=True)
        for index in range(4):
            Image.new("RGB", (32, 32), (60 * index, 0, 0)).save(tmp_path / "d" / label / f"{index}.png")
    with pytest.raises(LfdeployError, match="cannot be printed; rename it"):
        train(TrainConfig(data=str(tmp_path / "d"), epochs=1), "mine", tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
