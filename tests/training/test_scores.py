"""`lfdeploy evaluate` on other pictures than the run's: all of them, and what was trained on is counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from lfdeploy.run import Run

KNOWN, NEW = 30, 20


@pytest.fixture(scope="session")
def mixed(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training pictures of the run, and test pictures with a dot, which it has not seen."""
    data = tiny_run.data()
    known = np.asarray(data.train.images[:KNOWN])
    new = np.asarray(data.test.images[:NEW]).copy()
    new[:, 0, 0] = 255 - new[:, 0, 0]
    path = tmp_path_factory.mktemp("other") / "mixed.npz"
    labels = np.concatenate([data.train.labels[:KNOWN], data.test.labels[:NEW]])
    np.savez(path, train_x=np.concatenate([known, new]), train_y=labels, classes=np.array(data.classes))
    return path


@pytest.mark.parametrize("artifact", [False, True], ids=["run", "artifact"])
def test_all_are_judged_and_those_trained_on_are_told_apart(
    tiny_run: Run,
    mixed: Path,
    artifact: bool,
    lf: Callable[..., Result],
) -> None:
    name = tiny_run.artifacts / "peer0-onnx-fp32" if artifact else tiny_run.path
    result = lf("evaluate", name, "--runs", tiny_run.path.parent, "--data", mixed, "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert (document["images"], document["trained_on"], document["not_trained_on"]["images"]) == (
        KNOWN + NEW,
        KNOWN,
        NEW,
    )
    for node, row in document["nodes"].items():
        fresh = document["not_trained_on"]["nodes"][node]
        assert 0 <= row["correct"] - fresh["correct"] <= KNOWN
        assert fresh["top1"] == pytest.approx(100 * fresh["correct"] / NEW)
    assert f"all {KNOWN + NEW} pictures" in result.stderr
    assert f"run tiny was trained on {KNOWN} of them" in result.stderr


def test_the_table_shows_both(tiny_run: Run, mixed: Path, lf: Callable[..., Result]) -> None:
    result = lf("evaluate", tiny_run.path, "--runs", tiny_run.path.parent, "--data", mixed)
    assert "tiny: 50 pictures of mixed" in result.stdout
    assert "tiny: the 20 pictures of these that were not trained on" in result.stdout


def test_the_run_s_own_pictures(tiny_run: Run, lf: Callable[..., Result]) -> None:
    result = lf("evaluate", tiny_run.path, "--runs", tiny_run.path.parent, "--json")
    document = json.loads(result.stdout)
    assert "trained_on" not in document and "not_trained_on" not in document
    assert "Note:" not in result.stderr
    assert document["images"] == tiny_run.read("summary.json")["data"]["test"]


def test_the_run_s_own_pictures_by_their_name(tiny_run: Run, lf: Callable[..., Result]) -> None:
    """Those it was trained on are left out; that is said."""
    result = lf("evaluate", tiny_run.path, "--runs", tiny_run.path.parent, "--data", "digits", "--json")
    assert json.loads(result.stdout)["images"] == tiny_run.read("summary.json")["data"]["test"]
    assert "digits holds the pictures of run tiny: pictures keep the splits of run tiny" in result.stderr
    assert "what was trained on is not judged" in result.stderr
