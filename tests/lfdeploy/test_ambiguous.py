"""Names that may mean two things: told, and never guessed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from PIL import Image

import lfdeploy
from lfdeploy.errors import UsageError
from lfdeploy.sources import as_folder


def test_a_folder_with_a_data_sets_name_is_not_that_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lf: Callable[..., Result]
) -> None:
    """Both readings are told; a path is one, and so is what `ship` is given."""
    monkeypatch.chdir(tmp_path)
    for blue, name in ((90, "cat"), (190, "dog")):
        Path("digits", name).mkdir(parents=True)
        for number in range(6):
            Image.new("RGB", (20, 20), (40 * number, 0, blue)).save(Path("digits", name, f"{number}.png"))
    for words in (["train"], ["train", "--data", "digits"]):
        result = lf(*words)
        assert result.exit_code == 2 and not Path("runs").exists()
        assert "a data set with a name, and a folder here has that name too" in result.stderr
        assert "./digits" in result.stderr
    assert as_folder("digits") == "./digits" and as_folder("cifar10") == "cifar10"
    run = lfdeploy.train(
        data=Path("digits"), arch="resnet8", method="independent", peers=1, epochs=1, steps=1, image_size=16
    )
    assert run.spec["classes"] == ["cat", "dog"]
    document = lfdeploy.evaluate(run, data=Path("digits"))
    assert document["images"] == 2 and set(document["nodes"]) == {"peer0", "ensemble"}
    with pytest.raises(UsageError, match="folder here has that name too"):
        lfdeploy.evaluate(run, data="digits")
    assert f"Next: lfdeploy export {run.name}" not in lf("train", "--resume", run.name).stderr


def test_the_next_line_is_of_this_run(tmp_path: Path, coloured_npz: Path, lf: Callable[..., Result]) -> None:
    """The newest of runs/ is another one where it went elsewhere."""
    words = ["--arch", "resnet8", "--method", "independent", "--peers", 1, "--epochs", 1, "--steps", 1]
    result = lf("train", "--data", coloured_npz, *words, "--runs", tmp_path / "my runs", "--name", "mine")
    assert result.exit_code == 0
    assert f"Next: lfdeploy export '{tmp_path}/my runs/mine' --peer 0" in result.stderr
