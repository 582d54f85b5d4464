"""The command line: the user's own words, answers as documents, and mistakes that get one line."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from lfdeploy import open_artifact
from lfdeploy.answers import write_csv
from lfdeploy.cli import main
from lfdeploy.errors import UsageError
from lfdeploy.predict import Prediction
from lfdeploy.run import Run

COMMANDS = ["train", "evaluate", "export", "verify", "predict", "bench", "serve", "ship", "list", "doctor"]
LF = str(Path(sys.executable).with_name("lfdeploy"))


def pictures(run: Run, place: Path, count: int = 6) -> list[Path]:
    place.mkdir(parents=True, exist_ok=True)
    found = []
    for index, image in enumerate(run.data().test.images[:count]):
        Image.fromarray(image).resize((40, 56)).save(place / f"{index}.png")
        found.append(place / f"{index}.png")
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_screen(command: str, lf: Callable[..., Result]) -> None:
    result = lf(command, "--help")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) <= 48
    assert max(map(len, result.stdout.splitlines())) <= 100


def test_contract_of_a_run(tiny_run: Run) -> None:
    names = {p.name for p in tiny_run.path.iterdir()}
    assert names == {
        "config.json",
        "spec.json",
        "splits.npz",
        "familiarity.json",
        "reference.safetensors",
        "metrics.jsonl",
        "summary.json",
        "model.safetensors",
        "checkpoint",
        "curves.png",
        "confusion.png",
        "artifacts",
    }
    rows = [json.loads(line) for line in (tiny_run.path / "metrics.jsonl").read_text().splitlines()]
    assert [r["epoch"] for r in rows] == list(range(1, 7))
    assert {"loss", "parts", "lr", "val", "images_per_second"} <= set(rows[0])
    assert set(rows[0]["val"]) == {"peer0", "peer1", "fused", "ensemble", "ensemble_probs", "aux0", "aux1"}
    assert rows[-1]["loss"] < rows[0]["loss"]
    summary = tiny_run.read("summary.json")
    wanted = {
        "method",
        "archs",
        "epochs",
        "data",
        "val",
        "test",
        "images_per_second",
        "seconds",
        "device",
        "precision",
        "seed",
        "versions",
    }
    assert wanted <= set(summary)
    for split in ("val", "test"):
        nodes = {"top1", "peers", "fused", "ensemble", "ensemble_probs", "aux"}
        assert set(summary[split]) == nodes | {"per_class_recall", "macro_f1", "balanced"}
        assert len(summary[split]["per_class_recall"]) == summary["data"]["classes"]
        assert list(summary[split]["top1"]) == ["peer0", "peer1", "fused", "ensemble", "aux0", "aux1"]
        assert len(summary[split]["peers"]) == len(summary[split]["aux"]) == 2
    for name in ("curves.png", "confusion.png"):
        with Image.open(tiny_run.path / name) as picture:
            assert picture.width > 500


def test_evaluate_run_and_artifact_agree_to_the_picture(tiny_run: Run, lf: Callable[..., Result]) -> None:
    run = json.loads(lf("evaluate", tiny_run.path, "--json").stdout)
    assert run["images"] == 359
    summary = tiny_run.read("summary.json")["test"]
    assert run["nodes"]["fused"]["top1"] == pytest.approx(summary["fused"])
    for target in ("peer0", "peer1", "fused", "ensemble"):
        artifact = json.loads(lf("evaluate", tiny_run.artifacts / f"{target}-onnx-fp32", "--json").stdout)
        assert artifact["backend"] == "onnxruntime"
        assert artifact["nodes"][target] == run["nodes"][target]
    assert json.loads(lf("evaluate", tiny_run.path, "--split", "val", "--json").stdout)["images"] == 143


def test_predict_is_the_same_through_every_door(
    tiny_run: Run, tmp_path: Path, lf: Callable[..., Result]
) -> None:
    files = pictures(tiny_run, tmp_path / "some" / "deep")
    path = tiny_run.artifacts / "fused-onnx-fp32"
    onnx = json.loads(lf("predict", path, tmp_path / "some", "--json", "--top", 10).stdout)
    torch = json.loads(
        lf("predict", path, tmp_path / "some", "--json", "--top", 10, "--backend", "pytorch").stdout
    )
    assert (onnx["backend"], torch["backend"]) == ("onnxruntime", "pytorch")
    python = open_artifact(path).predict(files, top=10)
    assert len(onnx["predictions"]) == len(python) == 6
    for a, b, c in zip(onnx["predictions"], torch["predictions"], python, strict=True):
        assert a["label"] == b["label"] == c.label
        left = {t["label"]: t["probability"] for t in a["top"]}
        right = {t["label"]: t["probability"] for t in b["top"]}
        assert max(abs(left[k] - right[k]) for k in left) <= 1e-5
        assert left == dict(c.top)


def test_predict_csv_and_bad_files(tiny_run: Run, tmp_path: Path, lf: Callable[..., Result]) -> None:
    pictures(tiny_run, tmp_path / "p", 2)
    (tmp_path / "p" / "=bad.png").write_bytes(b"no picture")
    table = tmp_path / "answers.csv"
    result = lf("predict", tiny_run.artifacts / "peer0-onnx-fp32", tmp_path / "p", "--csv", table, "--top", 2)
    assert result.exit_code == 0
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert len(rows) == 3
    bad = [r for r in rows if r["error"]]
    assert len(bad) == 1
    assert "is not a picture" in bad[0]["error"]
    assert "1 of 3 files could not be read" in result.stderr
    assert f"3 rows in {table}: " in result.stderr and "1 without an answer" in result.stderr
    assert float(rows[0]["probability1"]) >= float(rows[0]["probability2"])
    alone = lf("predict", tiny_run.artifacts / "peer0-onnx-fp32", tmp_path / "p" / "=bad.png")
    assert alone.exit_code == 1 and alone.output.count("is not a picture") == 1


def test_bench_has_a_row_for_every_artifact_and_batch(tiny_run: Run, lf: Callable[..., Result]) -> None:
    result = lf(
        "bench",
        tiny_run.artifacts / "peer0-onnx-fp32",
        tiny_run.artifacts / "fused-onnx-fp32",
        "--batch",
        "1,8",
        "--rounds",
        3,
        "--json",
    )
    rows = json.loads(result.stdout)["rows"]
    assert {(r["artifact"], r["backend"], r["batch"]) for r in rows} == {
        (name, backend, batch)
        for name, backend in (
            ("peer0", "pytorch"),
            ("peer0-onnx-fp32", "onnxruntime"),
            ("fused", "pytorch"),
            ("fused-onnx-fp32", "onnxruntime"),
        )
        for batch in (1, 8)
    }
    for row in rows:
        assert 0 < row["p50_ms"] <= row["p95_ms"]
        assert row["bytes"] > 0
        assert row["top1"] > 50


@pytest.mark.parametrize("what", ["methods", "archs", "recipes", "datasets", "backends", "runs", "artifacts"])
def test_list(what: str, tiny_run: Run, lf: Callable[..., Result]) -> None:
    rows = json.loads(lf("list", what, "--runs", tiny_run.path.parent, "--json").stdout)
    assert rows
    shown = lf("list", what, "--runs", tiny_run.path.parent)
    assert shown.exit_code == 0
    for row in rows:
        assert str(next(iter(row.values()))) in shown.stdout


@pytest.mark.parametrize(("word", "table"), [("data", "datasets"), ("run", "runs"), ("models", "archs")])
def test_a_table_by_another_word(word: str, table: str, tiny_run: Run, lf: Callable[..., Result]) -> None:
    runs = tiny_run.path.parent
    assert lf("list", word, "--runs", runs).stdout == lf("list", table, "--runs", runs).stdout != ""


def test_a_piped_path_is_whole(tiny_run: Run, tmp_path: Path, lf: Callable[..., Result]) -> None:
    deep = tmp_path / ("x" * 120)
    deep.mkdir()
    (deep / "runs").symlink_to(tiny_run.path.parent)
    said = lf("list", "artifacts", "--runs", deep / "runs").stdout
    lines = [line.split()[-1] for line in said.splitlines() if "onnx" in line]
    assert str(deep / "runs" / "tiny" / "artifacts" / "peer0-onnx-fp32") in lines
    assert all(line.startswith(str(deep)) for line in lines)


def test_list_alone_shows_all(tiny_run: Run, lf: Callable[..., Result]) -> None:
    tables = json.loads(lf("list", "--runs", tiny_run.path.parent, "--json").stdout)
    assert list(tables) == ["methods", "archs", "recipes", "datasets", "backends", "runs", "artifacts"]
    shown = lf("list", "--runs", tiny_run.path.parent).stdout
    for name, rows in tables.items():
        assert name.capitalize() in shown
        assert rows == json.loads(lf("list", name, "--runs", tiny_run.path.parent, "--json").stdout)


def test_csv_holds_labels_as_they_are(tmp_path: Path) -> None:
    """Those that a spreadsheet may take for a formula, those with separators, and file names that are
    no UTF-8.
    """
    labels = ["=", "+1", "-", "@x", "a,b", 'say "a"', "猫"]
    answers = [Prediction("caf\udce9.png", top=((label, 0.5),), abstain=False) for label in labels]
    write_csv(str(tmp_path / "answers.csv"), answers, 1)
    with (tmp_path / "answers.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label1"] for row in rows] == labels
    assert {row["picture"] for row in rows} == {"caf\udce9.png"}


def test_the_artifact_of_the_newest_run_is_taken(
    tiny_run: Run, tmp_path: Path, lf: Callable[..., Result]
) -> None:
    """Of two artifacts of one name; a name that it lacks is looked up in the others,
    and whose it is is said.
    """
    runs = tmp_path / "runs"
    for name, ignored in (("first", "fused*"), ("second", "nothing")):
        shutil.copytree(tiny_run.path, runs / name, ignore=shutil.ignore_patterns(ignored))
    (runs / "latest").symlink_to("first")
    mine = lf("doctor", "peer0-onnx-fp32", "--runs", runs)
    assert f"Artifact: {runs}/first/artifacts/peer0-onnx-fp32 (of the newest run)" in mine.stderr
    other = lf("doctor", "fused-onnx-fp32", "--runs", runs)
    assert "second/artifacts/fused-onnx-fp32 (first, the newest run, has none of that name)" in other.stderr
    assert "Run: first (the newest)" in lf("export", "--peer", 9, "--runs", runs).stderr


def test_doctor(lf: Callable[..., Result]) -> None:
    told = json.loads(lf("doctor", "--json").stdout)
    assert told["backends"]["tensorrt-rtx"]["builds"] == "yes"
    assert told["problems"] == []
    assert lf("doctor").exit_code == 0


def test_doctor_of_an_artifact(tiny_run: Run, lf: Callable[..., Result]) -> None:
    path = tiny_run.artifacts / "fused-onnx-fp32"
    told = json.loads(lf("doctor", path, "--json").stdout)["artifact"]
    assert (told["name"], told["whole"], told["state"], told["runs_here"], told["verdict"]) == (
        "fused-onnx-fp32", True, "runs here", True, "pass",
    )  # fmt: skip
    shown = lf("doctor", path).stdout
    assert "runs here: onnxruntime" in shown
    assert f"Next: lfdeploy predict {path}" in shown


MISTAKES = {
    "no such method": (["train", "--method", "dlm"], 2, "Unknown method 'dlm'"),
    "no such arch": (["train", "--arch", "resnet21"], 2, "Did you mean 'resnet"),
    "peers and archs": (["train", "--arch", "resnet8,resnet14,resnet20", "--peers", "2"], 2, "drop --peers"),
    "zero peers": (["train", "--peers", "0"], 2, "--peers is 0"),
    "no such option": (["train", "-o", "temp", "3"], 2, "Did you mean 'temperature'"),
    "option of the wrong type": (["train", "-o", "temperature", "hot"], 2, "must be a number"),
    "option with a sign between": (["train", "-o", "attn=self"], 2, "Choose one of: none, se, eca, cbam"),
    "option of another choice": (["train", "-o", "attn", "self"], 2, "Choose one of: none, se, eca, cbam"),
    "too few networks": (["train", "--method", "okddip", "--peers", "2"], 2, "needs at least 3 networks"),
    "one network for two": (["train", "--method", "dml", "--peers", "1"], 2, "needs at least 2 networks"),
    "copies never": (["train", "--method", "codistillation", "-o", "every", "0"], 2, "must be at least 1"),
    "average of more": (["train", "--method", "pcl", "-o", "decay", "1.5"], 2, "must be from 0 to 1"),
    "branches unlike": (
        ["train", "--method", "one", "--arch", "resnet8,resnet14"],
        2,
        "needs peers of one architecture",
    ),
    "no maps of its own": (
        ["train", "-o", "aux_of", "peer", "-o", "taps", "none", "-o", "share", "stage1"],
        2,
        "share less",
    ),
    "sum of unlike maps": (
        ["train", "--arch", "resnet18,vgg8_bn_cifar", "-o", "fuse", "sum"],
        2,
        "take dwpw",
    ),
    "option to a resumed run": (["train", "--resume", "x", "-o", "ramp", "0"], 2, "drop -o."),
    "name for a resumed run": (["train", "--resume", "x", "--name", "y"], 2, "drop --name."),
    "no such tap": (["train", "-o", "taps", "7"], 2, "middle stages of this network are 1 to 2"),
    "no such run": (["evaluate", "nothing"], 1, "neither a run nor an artifact"),
    "nothing to export": (["export", "{run}"], 2, "add one of --peer N"),
    "two targets": (["export", "{run}", "--fused", "--peer", "0"], 2, "Only one target"),
    "no such peer": (["export", "{run}", "--peer", "5"], 1, "has no peer5"),
    "bad batch": (["export", "{run}", "--peer", "0", "--batch", "8"], 2, "MIN:OPT:MAX"),
    "bad batch order": (["export", "{run}", "--peer", "0", "--batch", "1:9:4"], 2, "MIN <= OPT <= MAX"),
    "engine for onnx": (
        ["export", "{run}", "--peer", "0", "--engine", "tensorrt"],
        2,
        "only with --format trt",
    ),
    "faster without int8": (["export", "{run}", "--peer", "0", "--require-faster"], 2, "it is about int8"),
    "faster engine": (
        ["export", "{run}", "--peer", "0", "--format", "trt", "--precision", "int8", "--require-faster"],
        2,
        "measured by lfdeploy bench",
    ),
    "no such artifact": (["predict", "nothing", "x.png"], 1, "There is no artifact 'nothing'"),
    "no such picture": (
        ["predict", "{run}/artifacts/peer0-onnx-fp32", "none.png"],
        1,
        "There is no file 'none.png'",
    ),
    "json and csv": (
        ["predict", "{run}/artifacts/peer0-onnx-fp32", "x", "--json", "--csv", "y"],
        2,
        "drop one",
    ),
    "resume and flags": (["train", "--resume", "{run}", "--epochs", "3"], 2, "drop --epochs"),
    "resume of a finished run": (["train", "--resume", "{run}"], 1, "has finished already"),
    "bench of nothing": (
        ["bench", "{run}/artifacts/peer0-onnx-fp32", "--batch", "one"],
        2,
        "write sizes like 1,8,32",
    ),
    "a run outside": (["train", "--name", "../evil"], 2, "must be the plain name of a directory"),
    "a run without a name": (["train", "--name", ".."], 2, "must be the plain name of a directory"),
    "a rate that is no number": (["train", "--lr", "nan"], 2, "--lr is nan"),
    "runs in a file": (["train", "--runs", "{run}/summary.json"], 1, "File exists"),
    "csv nowhere": (
        ["predict", "{run}/artifacts/peer0-onnx-fp32", "x", "--csv", "no/y"],
        2,
        "there is no directory no",
    ),
    "csv over a directory": (
        ["predict", "{run}/artifacts/peer0-onnx-fp32", "x", "--csv", "{run}"],
        2,
        "that is a directory",
    ),
    "no precision of eight bits": (
        ["export", "{run}", "--peer", "0", "--precision", "fp8"],
        2,
        "Unknown precision 'fp8'. Choose one of",
    ),
    "verify of nothing": (["verify"], 2, "Nothing says what to verify. Artifacts are shown by"),
    "bisect of nothing": (["bisect"], 2, "Nothing says what to bisect. Artifacts are shown by"),
    "bench without a name": (["bench"], 2, "Write: lfdeploy bench ARTIFACT|FILE"),
    "predict of nothing": (["predict"], 2, "Write: lfdeploy predict ARTIFACT PICTURE|DIR..."),
    "predict without pictures": (["predict", "{run}"], 2, "lfdeploy predict ARTIFACT PICTURE|DIR..."),
    "no such table": (["list", "pictures"], 2, "is not one of"),
    "no such command": (["exprot"], 2, "Did you mean 'export'? See: lfdeploy --help"),
    "train, a folder without its flag": (
        ["train", "my photos/"],
        2,
        "train has no place for 'my photos/'. Did you mean: lfdeploy train --data 'my photos/'",
    ),
    "export, a second run": (["export", "{run}", "b"], 2, "has no place for b. See: lfdeploy export --help"),
    "train, no number": (["train", "--epochs", "ten"], 2, "not a valid integer. See: lfdeploy train --help"),
    "train, no value": (["train", "--epochs"], 2, "requires an argument. See: lfdeploy train --help"),
}


@pytest.mark.parametrize("name", list(MISTAKES))
def test_mistakes_get_one_line(
    name: str, tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, code, said = MISTAKES[name]
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, [w.replace("{run}", str(tiny_run.path)) for w in words])
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]  # nothing half-written
    assert result.exit_code == code, result.output
    error = [line for line in result.stderr.splitlines() if line.startswith("Error:")]
    assert len(error) == 1
    assert said in result.stderr
    assert "Traceback" not in result.output and "Usage:" not in result.output


def test_cuda_asked_for_and_absent_is_an_error(tiny_run: Run, lf: Callable[..., Result]) -> None:
    from lfdeploy.devices import gpus

    if gpus():
        pytest.skip("this machine has a GPU")
    for words in (
        ["train", "--device", "cuda"],
        ["predict", tiny_run.artifacts / "peer0-onnx-fp32", __file__, "--device", "cuda"],
    ):
        result = lf(*words)
        assert result.exit_code == 1
        assert "--device cuda" in result.stderr


def test_an_unknown_provider_is_never_replaced(tiny_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime falls back by itself with a warning only; asking for CUDA on a machine without it
    must raise.
    """
    from lfdeploy.backends import onnxruntime as backend
    from lfdeploy.devices import gpus
    from lfdeploy.errors import LfdeployError

    if gpus():
        pytest.skip("this machine has a GPU")
    monkeypatch.setitem(backend.PROVIDERS, "cpu", "CUDAExecutionProvider")
    with pytest.raises(LfdeployError, match="where CUDAExecutionProvider was asked for"):
        open_artifact(tiny_run.artifacts / "peer0-onnx-fp32", device="cpu")


def test_changed_bytes_are_refused_everywhere(
    tiny_run: Run, tmp_path: Path, lf: Callable[..., Result]
) -> None:
    copy = shutil.copytree(tiny_run.artifacts / "peer0-onnx-fp32", tmp_path / "copy")
    blob = bytearray((copy / "model.onnx").read_bytes())
    blob[len(blob) // 2] ^= 1
    (copy / "model.onnx").write_bytes(blob)
    for words in (
        ["verify", copy],
        ["predict", copy, __file__],
        ["evaluate", copy, "--runs", tiny_run.path.parent],
        ["bench", copy],
        ["doctor", copy],
    ):
        result = lf(*words)
        assert (result.exit_code, "stage file" in result.stderr) == (3, True), (words, result.output)


VALUED = [
    (name, option.opts[-1])
    for name, command in main.commands.items()
    for option in command.params
    if isinstance(option, click.Option) and not option.is_flag and option.nargs == 1
]


@pytest.mark.parametrize(("command", "flag"), VALUED)
def test_an_empty_value_is_none(
    command: str, flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an unset variable of a shell leaves never means a default, and nothing is begun with it."""
    monkeypatch.chdir(tmp_path)
    for words in ([flag, ""], [f"{flag}= "]):
        result = CliRunner().invoke(main, [command, *words])
        assert result.exit_code == 2 and f"{flag} is empty" in result.stderr, result.output
    assert not list(tmp_path.iterdir())


def test_an_unknown_device_is_none(tiny_run: Run) -> None:
    for device in ("CPU", "cuda:1", "gpu", None, 0):
        with pytest.raises(UsageError, match=f"Unknown device '{device}'"):
            open_artifact(tiny_run.artifacts / "peer0-onnx-fp32", device=device)  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_users_own_words(
    tmp_path: Path, lf: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone, in this order, in an empty folder; `lfdeploy serve` has its own test in a real browser, and the
    README's walk is made of real processes.
    """
    monkeypatch.chdir(tmp_path)
    for words in (["train"], ["export", "--peer", "0", "--format", "trt"]):
        done = lf(*words)
        assert done.exit_code == 0, done.stderr
    assert [p.name for p in (tmp_path / "runs" / "latest" / "artifacts").iterdir()] == ["peer0-trt-fp32"]
    test = json.loads((tmp_path / "runs" / "latest" / "summary.json").read_text())["test"]
    assert min(*test["peers"], test["fused"]) > 95


@pytest.mark.slow
def test_config_file_repeats_a_run(coloured_npz: Path, tmp_path: Path, lf: Callable[..., Result]) -> None:
    common = [
        "--data",
        coloured_npz,
        "--arch",
        "resnet8",
        "--precision",
        "fp32",
        "--threads",
        "shared",
        "--runs",
        tmp_path / "runs",
    ]
    first = lf("train", *common, "--epochs", 2, "--name", "one", "-o", "attn", "se")
    assert first.exit_code == 0, first.stderr
    again = lf(
        "train",
        "--config",
        tmp_path / "runs" / "one" / "config.json",
        "--name",
        "two",
        "--runs",
        tmp_path / "runs",
    )
    assert again.exit_code == 0, again.stderr
    one, two = ((tmp_path / "runs" / n / "model.safetensors").read_bytes() for n in ("one", "two"))
    assert one == two
    assert (tmp_path / "runs" / "latest").resolve().name == "two"


def test_train_on_everything(coloured_npz: Path, tmp_path: Path, lf: Callable[..., Result]) -> None:
    result = lf(
        "train",
        "--data",
        coloured_npz,
        "--val-fraction",
        0,
        "--epochs",
        2,
        "--method",
        "independent",
        "--runs",
        tmp_path,
        "--name",
        "all",
    )
    assert result.exit_code == 0, result.stderr
    summary = json.loads((tmp_path / "all" / "summary.json").read_text())
    assert (summary["val"], summary["kept_epoch"], summary["data"]["val"]) == (None, 2, 0)
    assert summary["test"] == summary["test_last"]
    assert np.isfinite(summary["test"]["ensemble"])
