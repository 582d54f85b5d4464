"""Pictures unlike the training ones: the score's numbers, its threshold, and where it is said."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from lfdeploy.artifact import read, sealed
from lfdeploy.errors import ParityError
from lfdeploy.familiarity import FILE, KEY, SHRINKAGE, fitted, score, unfamiliar
from lfdeploy.predict import Predictor
from lfdeploy.run import Run, write_json
from training.familiar import auroc

CLASSES = 5


def drawn(count: int, seed: int = 0) -> tuple[Any, Any]:
    """Logits (N, K) around a mean of each class, correlated, and labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    mixing = np.random.default_rng(9).normal(size=(CLASSES, CLASSES))
    return 6 * np.eye(CLASSES)[labels] + rng.normal(size=(count, CLASSES)) @ mixing, labels


def test_the_score_is_the_formula_written_out() -> None:
    z, labels = drawn(200)
    manifest = {KEY: fitted(z, labels)}
    fresh, _ = drawn(7, seed=1)

    def shrunk(rows: Any) -> Any:
        covariance = sum(np.outer(row, row) for row in rows) / len(rows)
        level = np.trace(covariance) / CLASSES
        return (1 - SHRINKAGE) * covariance + SHRINKAGE * level * np.eye(CLASSES)

    means = [z[labels == k].mean(0) for k in range(CLASSES)]
    within = shrunk([row - means[label] for row, label in zip(z, labels, strict=True)])
    whole = shrunk(list(z - z.mean(0)))
    wanted = [
        min((row - mean) @ np.linalg.solve(within, row - mean) for mean in means)
        - (row - z.mean(0)) @ np.linalg.solve(whole, row - z.mean(0))
        for row in fresh
    ]
    np.testing.assert_allclose(score(manifest, fresh), wanted, rtol=1e-4)  # stored as fp32


def test_of_other_pictures_of_the_kind_about_the_share_is_familiar() -> None:
    """The threshold is found on pictures that its numbers have not seen, so it holds on others."""
    kept = []
    for seed in range(20):
        manifest = {KEY: fitted(*drawn(60, seed))}
        kept += unfamiliar(manifest, drawn(500, 100 + seed)[0])
    assert 0.90 < 1 - np.mean(kept) < 0.98
    assert unfamiliar(manifest, np.full((1, CLASSES), 30.0)) == [True]
    assert unfamiliar(manifest, np.full((1, CLASSES), np.nan)) == [True]


@pytest.mark.parametrize(
    ("z", "labels", "reason"),
    [
        (*drawn(49), "49 validation pictures are too few; it takes 50"),
        (drawn(60)[0], np.array([0] * 58 + [1, 2]), "a class has 0 validation pictures; it takes 3 of each"),
        (np.zeros((200, 129)), np.arange(200) % 129, "129 classes are too many; at most 128 are kept apart"),
        (np.full((60, 2), np.inf), np.arange(60) % 2, "the network gives logits that are not finite"),
    ],
)
def test_where_nothing_can_be_said_that_is_said(z: Any, labels: Any, reason: str) -> None:
    block = fitted(z, labels)
    assert (block["threshold"], block["reason"]) == (None, reason)
    assert score({KEY: block}, z[:3]) is None and unfamiliar({}, z[:2]) == [None, None]


def test_logits_that_are_all_alike_are_no_fault() -> None:
    block = fitted(np.ones((60, 3)), np.arange(60) % 3)
    assert unfamiliar({KEY: block}, np.ones((1, 3))) == [False]


@pytest.mark.parametrize("numbers", ["", "AAAA", "no base64!", None])
def test_broken_numbers_are_refused(numbers: object) -> None:
    z, labels = drawn(60)
    with pytest.raises(ParityError, match=r"familiarity\.numbers"):
        unfamiliar({KEY: fitted(z, labels) | {"numbers": numbers}}, z)


def test_auroc_is_the_share_of_pairs_in_order() -> None:
    rng = np.random.default_rng(0)
    strange, own = rng.integers(0, 9, 40).astype(float), rng.integers(0, 7, 30).astype(float)
    pairs = [(s > o) + 0.5 * (s == o) for s in strange for o in own]
    assert auroc(strange, own) == pytest.approx(np.mean(pairs))


def test_training_notes_it_and_every_command_tells_it(
    tiny_run: Run, tmp_path: Path, lf: Callable[..., Result]
) -> None:
    """Noise is unlike digits; a digit of the test split is not."""
    blocks = tiny_run.read(FILE)
    assert set(blocks) == set(tiny_run.spec["targets"])
    artifact = read(tiny_run.artifacts / "peer0-onnx-fp32")
    block = artifact.manifest[KEY]
    assert block == blocks["peer0"] and block["images"] == len(tiny_run.data().val)
    assert set(block["test"]["auroc"]) == {"noise", "blank", "shuffled"}
    found = artifact.manifest["parity"]["familiarity"]
    assert found["images"] == len(tiny_run.data().test) and found["familiar"] / found["images"] > 0.8
    assert "test pictures are familiar; AUROC" in (artifact.path / "README.md").read_text()

    predictor = Predictor.open(artifact.path)
    own = np.ascontiguousarray(tiny_run.data().test.images[:40])
    noise = np.random.default_rng(0).integers(0, 256, own.shape, np.uint8)
    assert sum(bool(answer.unfamiliar) for answer in predictor.predict(own)) < 10
    assert [answer.unfamiliar for answer in predictor.predict(noise)] == [True] * 40

    Image.fromarray(noise[0]).save(tmp_path / "noise.png")
    words = ("predict", artifact.path, tmp_path / "noise.png")
    assert "(unlike its training pictures)" in lf(*words).stdout
    assert json.loads(lf(*words, "--json").stdout)["predictions"][0]["unfamiliar"] is True
    assert lf(*words, "--csv", tmp_path / "t.csv").exit_code == 0
    row = next(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert row["unfamiliar"] == "true"


def test_a_manifest_that_says_otherwise_than_training_fails(
    tmp_path: Path, tiny_run: Run, lf: Callable[..., Result]
) -> None:
    path = Path(shutil.copytree(tiny_run.artifacts / "peer0-onnx-fp32", tmp_path / "copy"))
    manifest = read(path).manifest
    manifest[KEY] = manifest[KEY] | {"threshold": 1e9}
    write_json(path / "manifest.json", sealed(manifest))
    result = lf("verify", path, "--run", tiny_run.path)
    assert (result.exit_code, "familiarity, as training found it" in result.stderr) == (3, True)
