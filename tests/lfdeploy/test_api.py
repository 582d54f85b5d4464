"""`lfdeploy.train`, `export` and their like; the page that shows them; names at the Tab key."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lfdeploy
from lfdeploy import api
from lfdeploy.completion import METHOD, RECIPE
from lfdeploy.config import TrainConfig
from lfdeploy.errors import UsageError
from lfdeploy.run import Run
from training.methods import METHODS
from training.recipes import RECIPES

PAGE = Path(__file__).parent.parent.parent / "docs" / "python.md"


@pytest.mark.slow
def test_the_page_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its blocks, one after the other, as they stand."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert names["artifact"].verdict == "pass"
    assert names["answer"].label in [str(digit) for digit in range(10)]


def test_a_function_does_what_its_command_does(tiny_run: Run, tmp_path: Path, coloured_npz: Path) -> None:
    import json

    from click.testing import CliRunner

    from lfdeploy.cli import main

    def lf(*words: object) -> str:
        return CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False).stdout

    assert lfdeploy.evaluate(tiny_run) == json.loads(lf("evaluate", tiny_run.path, "--json"))
    settings = {"arch": "resnet8", "epochs": 1, "method": "ffl"}
    ours = lfdeploy.train(data=coloured_npz, name="a", runs=tmp_path, option={"share": "stem"}, **settings)
    flags = [word for key, value in settings.items() for word in (f"--{key}", value)]
    lf("train", "--data", coloured_npz, "--name", "b", "--runs", tmp_path, "-o", "share", "stem", *flags)
    assert ours.weights.read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()
    assert ours.read("config.json") == json.loads((tmp_path / "b" / "config.json").read_text())


def test_an_artifact_is_opened_by_path_or_as_it_is(tiny_run: Run) -> None:
    from lfdeploy.artifact import of_run

    artifact = of_run(tiny_run)[0]
    picture = np.zeros((8, 8, 3), np.uint8)
    answers = [lfdeploy.open_artifact(each).predict(picture).top for each in (artifact, artifact.path)]
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: lfdeploy.train(epoch=3), "epochs"),
        (lambda: lfdeploy.train(option={"atn": "none"}), "attn"),
        (lambda: lfdeploy.export(pear=0), "peer"),
        (lambda: lfdeploy.compare(["fll"]), "ffl"),
        (lambda: lfdeploy.compare(["ffl"], seed=3), "seed"),
        (lambda: lfdeploy.train(resume="x", epochs=3), "its own settings"),
        (lambda: lfdeploy.train(balance="weight"), "weights"),
        (lambda: lfdeploy.train(graph="yes"), "--graph is 'yes'"),
        (lambda: lfdeploy.compare("ffl", seeds=2.0), "seeds is 2.0"),
        (lambda: lfdeploy.train(recipe=""), "recipe is empty"),
        (lambda: lfdeploy.train(weights=" "), "weights is empty"),
        (lambda: lfdeploy.train(balance=True, epochs=np.int64(0)), "--epochs is 0"),
        (lambda: lfdeploy.train(optimizer="adam"), "adamw"),
        (lambda: lfdeploy.train(precision="fp8"), "bf16"),
        (lambda: lfdeploy.train(epochs="3"), "a whole number"),
        (lambda: lfdeploy.train(epochs=2.5), "a whole number"),
        (lambda: lfdeploy.train(threads=0), "--threads"),
        (lambda: lfdeploy.export(peer="0"), "a whole number"),
    ],
)
def test_a_wrong_keyword_is_named(
    call: object, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=word):
        call()  # type: ignore[operator]


def test_what_a_notebook_shows_is_short(tiny_run: Run) -> None:
    """An artifact's manifest is 16 KB; and what is imported late is completed all the same."""
    from lfdeploy.artifact import of_run

    artifact = of_run(tiny_run)[0]
    assert repr(artifact) == f"Artifact('{artifact.path}', parity pass)"
    assert repr(lfdeploy.open_artifact(artifact)) == f"Predictor({artifact!r}, onnxruntime on cpu)"
    assert {*lfdeploy.__all__, "__version__"} <= set(dir(lfdeploy))


def test_values_are_taken_as_they_are_natural() -> None:
    config = api._config(TrainConfig, {"arch": ["resnet8", "resnet14"], "time": 90, "threads": 2, "lr": 1})
    assert (config.arch, config.time, config.threads, config.lr) == ("resnet8,resnet14", "90s", "2", 1)


def test_nothing_heavy_is_imported_before_it_is_used() -> None:
    code = "import sys, lfdeploy; lfdeploy.train; sys.exit(any(m in sys.modules for m in ('torch', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError):
        _ = lfdeploy.nothing  # type: ignore[attr-defined]


def test_tables_are_completed_as_they_are() -> None:
    """The keys that are read from the source are those of the tables."""
    none = None
    assert METHOD(none, none, "") == list(METHODS)  # type: ignore[arg-type]
    assert RECIPE(none, none, "") == list(RECIPES)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("train --method lf", "lfmkd"),
        ("train --arch resnet8,resnet11", "resnet8,resnet110"),
        ("compare --methods ffl,ind", "ffl,independent"),
        ("evaluate --runs RUNS ti", "tiny"),
        ("predict --runs RUNS ARTIFACT", "peer0-onnx-fp32"),
        ("train --recipe fine", "finetune"),
        ("train --resume ti --runs RUNS", ""),
    ],
)
def test_the_tab_key(typed: str, found: str, tiny_run: Run) -> None:
    runs = tiny_run.path.parent
    words = typed.replace("RUNS", str(runs)).replace("ARTIFACT", str(runs)).split()
    environment = os.environ | {
        "_LFDEPLOY_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["lfdeploy", *words]),
        "COMP_CWORD": str(len(words)),
    }
    command = [Path(sys.executable).with_name("lfdeploy")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert found in done.stdout and "Traceback" not in done.stderr
