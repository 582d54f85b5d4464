"""`lfdeploy bench train`: our step against a plain loop, and methods against the first of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from click.testing import Result

import training.bench
from lfdeploy.errors import UsageError
from training.bench import _row, bench_training

LF = Callable[..., Result]


@pytest.fixture(autouse=True)
def _few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.bench, "BATCH", 16)


def test_several_methods_are_held_to_the_first(lf: LF) -> None:
    document = bench_training("resnet8", "independent,lfmkd:aux_head=lite", 3)
    first, other = document["rows"]
    assert [row["loop"].split(",")[0] for row in document["rows"]] == ["independent", "lfmkd:aux_head=lite"]
    assert first["cost"] == first["ratio"] == 1
    assert other["cost_min"] <= other["cost"] <= other["cost_max"]
    assert "CPU cores (" in document["device"]  # and their instruction set
    shown = lf("bench", "train", "--arch", "resnet8", "--method", "independent,dml", "--rounds", 3)
    assert "time" in shown.stdout and "1.00x" in shown.stdout and "plain" not in shown.stdout


def test_a_ratio_is_of_one_round() -> None:
    row = _row("b", np.array([2.0, 4, 9]), np.array([1.0, 2, 3]))
    assert (row["ms"], row["images_per_second"]) == (4, 1e3 * training.bench.BATCH / 4)
    assert [row[key] for key in ("cost", "cost_min", "cost_max", "ratio_max")] == [2, 2, 3, 0.5]


def test_one_method_is_held_to_a_plain_loop() -> None:
    rows = bench_training("resnet8", "dml", 3)["rows"]
    assert rows[0]["loop"] == "plain: fp32, NCHW, eager, DataLoader" and rows[0]["ratio"] == 1
    assert all(row["loop"].startswith("lfdeploy: ") and row["ms"] > 0 for row in rows[1:])


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        ("dmll", "Did you mean 'dml'"),
        ("kd:teacher=runs/a", "Unknown method 'kd'"),
        ("lfmkd,lfmkd", "twice"),
        ("ffl:peers=3", "peers is measured by lfdeploy compare"),
        ("ffl:taps=9", "taps"),
    ],
)
def test_what_cannot_be_measured(methods: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        bench_training("resnet8", methods, 3)
