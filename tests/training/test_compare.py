"""`lfdeploy compare`: what is compared, what is trained only once, and whether figures are right."""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from scipy.stats import ttest_rel

from lfdeploy.config import TrainConfig
from lfdeploy.errors import LfdeployError, UsageError
from lfdeploy.models.deploy import build_network
from lfdeploy.run import Run
from training import train
from training.compare import compare
from training.compare.entries import entries_of, seeds_of
from training.compare.report import document_of, markdown
from training.compare.statistics import check_alone, compared, difference


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ffl", [("ffl", "ffl", (), ())]),
        ("ffl,dml", [("ffl", "ffl", (), ()), ("dml", "dml", (), ())]),
        (
            "lfmkd:attn=none:taps=1,2,ffl:share=stem",
            [
                ("lfmkd:attn=none:taps=1,2", "lfmkd", (("attn", "none"), ("taps", "1,2")), ()),
                ("ffl:share=stem", "ffl", (("share", "stem"),), ()),
            ],
        ),
        ("independent:peers=1", [("independent:peers=1", "independent", (), (("peers", "1"),))]),
        (
            "lfmkd:taps=1,2:attn=none,ffl:arch=resnet8,resnet20:share=none",
            [
                ("lfmkd:taps=1,2:attn=none", "lfmkd", (("taps", "1,2"), ("attn", "none")), ()),
                (
                    "ffl:arch=resnet8,resnet20:share=none",
                    "ffl",
                    (("share", "none"),),
                    (("arch", "resnet8,resnet20"),),
                ),
            ],
        ),
        ("dml:arch=timm:resnet10t", [("dml:arch=timm:resnet10t", "dml", (), (("arch", "timm:resnet10t"),))]),
    ],
)
def test_entries(text: str, found: list[tuple[Any, ...]]) -> None:
    assert [(e.label, e.method, e.options, e.settings) for e in entries_of(text)] == found


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("flf", "ffl"),
        ("ffl,dmll", "dmll"),
        ("ffl,dmll:temperature=2", "dmll"),
        ("ffl:shre=stem", "shre"),
        ("ffl:share=stm", "stm"),
        ("ffl:share", "KEY=VALUE"),
        ("independent:peers=two", "two"),
        ("dml:peers=1", "from 2"),
        ("ffl,kd", "--teacher"),
        ("ffl,ffl", "twice"),
        ("", "method"),
    ],
)
def test_entries_that_cannot_be(text: str, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        entries_of(text)


@pytest.mark.parametrize(
    ("text", "seeds"), [("3", [0, 1, 2]), ("5,6", [5, 6]), ("7,", [7]), (" 1, 2 ", [1, 2])]
)
def test_seeds(text: str, seeds: list[int]) -> None:
    assert seeds_of(text) == seeds


@pytest.mark.parametrize("text", ["", "0", "a", "1,a", "1,1", "-1", "1.5", ",", "1,4294967296"])
def test_seeds_that_cannot_be(text: str) -> None:
    with pytest.raises(UsageError, match="--seeds"):
        seeds_of(text)


def test_an_interval_is_that_of_a_paired_t_test() -> None:
    """scipy's own interval, which knows nothing of ours."""
    random = np.random.default_rng(0)
    for n in (2, 3, 5, 12):
        these, those = random.normal(70, 1, n), random.normal(69, 1, n)
        found = difference(dict(enumerate(these)), dict(enumerate(those)), "peers")
        interval = ttest_rel(these, those).confidence_interval(0.95)
        assert found.half is not None and found.n == n
        assert math.isclose(found.mean - found.half, interval.low, rel_tol=1e-9)
        assert math.isclose(found.mean + found.half, interval.high, rel_tol=1e-9)


def test_pairs_are_of_one_seed() -> None:
    found = difference({1: 70.0, 2: 71.0, 9: 0.0}, {2: 70.5, 1: 69.0, 8: 0.0}, "peers")
    assert (found.n, found.mean) == (2, 0.75)
    assert difference({1: 70.0}, {1: 69.0}, "peers").half is None  # one pair has no spread


def test_a_star_needs_three_pairs_that_differ() -> None:
    two = difference({0: 70.0, 1: 71.0}, {0: 69.0, 1: 70.01}, "peers")
    alike = difference(dict.fromkeys(range(5), 70.0), dict.fromkeys(range(5), 69.0), "peers")
    three = difference({0: 70.0, 1: 71.0, 2: 70.5}, {0: 69.0, 1: 70.1, 2: 69.6}, "peers")
    assert (two.clear, alike.clear, three.clear) == (False, False, True)


def line(label: str, seed: int, peers: list[float], fused: float | None, **more: Any) -> dict[str, Any]:
    """A line as `compare` writes it, of made-up figures."""
    return {
        "label": label,
        "seed": seed,
        "archs": ["resnet8"] * len(peers),
        "settings": {"epochs": 2, "lr": 0.1},
        "data": {"fingerprint": "f"},
        "test_last": {"peers": peers, "fused": fused, "ensemble": max(peers) + 1},
        "parameters": {"trained": 100 if fused is None else 150},
        "seconds": 10.0 if fused is None else 14.0,
        "device": "cpu",
        "gpu": None,
        "cpu": "AVX2",
        "threads": 2,
        "precision": "fp32",
        "versions": {"lfdeploy": "1", "torch": "2", "python": "3"},
    } | more


def test_every_machine_is_named() -> None:
    lines = [line("a", 0, [60], None), line("a", 1, [61], None, cpu="AMX")]
    lines = [each | {"settings": each["settings"] | {"recipe": "cifar"}} for each in lines]
    lines = [each | {"data": {"name": "d", "train": 1, "test": 1, "split": "test"}} for each in lines]
    document = document_of(compared(lines, ["a"], "a"), [], lines)
    assert document["machine"]["cpu"] == "AVX2, AMX" and "cpu (AVX2, AMX), 2 threads" in markdown(document)
    lines = [each | {"device": "cuda", "gpu": "NVIDIA H200"} for each in lines]
    document = document_of(compared(lines, ["a"], "a"), [], lines)
    assert "cuda (NVIDIA H200, AVX2, AMX), 2 threads" in markdown(document)


def test_each_is_held_to_its_equal() -> None:
    lines = [line("a", 0, [60, 62], None), line("a", 1, [61, 63], None)]
    lines += [line("b", 0, [62, 64], 66), line("b", 1, [64, 66], 68)]
    alone, fused = compared(lines, ["a", "b"], "a")
    assert set(alone.cells) == {"peers", "ensemble"} and alone.cells["peers"].difference is None
    found = {role: cell.difference for role, cell in fused.cells.items()}
    assert found["peers"] and (found["peers"].role, found["peers"].mean) == ("peers", 2.5)
    assert found["ensemble"] and (found["ensemble"].role, found["ensemble"].mean) == ("ensemble", 2.5)
    assert found["fused"] and (found["fused"].role, found["fused"].mean) == ("ensemble", 3.5)
    assert (fused.time_ratio, fused.parameter_ratio) == (1.4, 1.5)
    again = compared(lines, ["a", "b"], "b")[1]
    assert again.cells["fused"].difference is None


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"settings": {"epochs": 3, "lr": 0.1}}, "--epochs"),
        ({"gpu": "NVIDIA H200"}, "gpu"),
        ({"cpu": "AVX512_VNNI"}, "cpu"),
        ({"threads": 1}, "threads"),
        ({"versions": {"lfdeploy": "1", "torch": "3", "python": "3"}}, "torch"),
        ({"data": {"fingerprint": "g"}}, "pictures of seed 0"),
        ({"data": {"fingerprint": "f", "pictures": "other"}}, "pictures"),
        ({"archs": ["resnet20"] * 2}, "architectures"),
        ({"archs": ["resnet8"]}, "number of networks"),
    ],
)
def test_what_else_differs_is_said(more: dict[str, Any], word: str) -> None:
    lines = [line("a", 0, [60, 62], None), line("b", 0, [62, 64], 66)]
    assert check_alone(lines) == []
    told = check_alone([lines[0], lines[1] | more])
    assert word in told[0] and "a s0" in told[0] and "b s0" in told[0]


SHORT: dict[str, Any] = {"arch": "resnet8", "epochs": 1, "batch_size": 32, "val_fraction": 0.0}


def test_a_comparison(coloured_npz: Path, tmp_path: Path) -> None:
    """Whole; again from its lines alone; one method more; and what is asked otherwise is refused."""
    config = TrainConfig(data=str(coloured_npz), **SHORT)
    home = tmp_path / "runs" / "compare"
    document = compare(config, "ffl,independent", "2", runs=tmp_path / "runs")
    names = {"ffl-s0", "ffl-s1", "independent-s0", "independent-s1"}
    assert {path.parent.name for path in home.glob("*-s*/summary.json")} == names
    lines = [json.loads(text) for text in (home / "compare.jsonl").read_text().splitlines()]
    for each in lines:
        run = Run(home / f"{each['label']}-s{each['seed']}")
        assert each["test_last"]["top1"] == run.read("summary.json")["test_last"]["top1"]
        for target in each["parameters"].keys() - {"trained"}:
            made = build_network(target, run.spec, run.tensors())
            assert each["parameters"][target] == sum(value.numel() for value in made.parameters())
        assert str(tmp_path) not in json.dumps(each)
    assert document["against"] == "independent" and document["remarks"] == []
    peers = [np.mean(each["test_last"]["peers"]) for each in lines if each["label"] == "ffl"]
    assert math.isclose(document["rows"][0]["cells"]["peers"]["mean"], float(np.mean(peers)))
    for end in (".json", ".md", ".png"):
        assert (home / f"compare{end}").stat().st_size > 0

    (home / "ffl-s0").rename(tmp_path / "away")  # its line is enough
    assert compare(config, "ffl,independent", "2", runs=tmp_path / "runs")["rows"] == document["rows"]
    assert not (home / "ffl-s0").exists()

    stamps = {path: path.stat().st_mtime_ns for path in home.glob("*-s*/summary.json")}
    (home / "compare.jsonl").unlink()  # a finished run is not trained again
    (tmp_path / "away").rename(home / "ffl-s0")
    found = compare(config, "ffl,independent,ffl:share=stem", "2", runs=tmp_path / "runs")
    assert found["rows"][:2] == document["rows"]
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert (home / "ffl-share-stem-s1" / "summary.json").exists()

    for other in ({"epochs": 2}, {"lr": 0.3}, {"data": "digits"}, {"arch": "resnet14"}, {"peers": 3}):
        changed = TrainConfig(**({"data": str(coloured_npz)} | SHORT | other))
        with pytest.raises(LfdeployError, match="another --name"):
            compare(changed, "ffl,independent", "2", runs=tmp_path / "runs")
    (home / "compare.jsonl").unlink()
    with pytest.raises(LfdeployError, match="--lr"):
        compare(TrainConfig(data=str(coloured_npz), lr=0.3, **SHORT), "ffl", "1", runs=tmp_path / "runs")


def test_figures_of_other_pictures_are_not_taken_over(
    coloured_npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the same name, in another place or since changed: neither a line nor a finished run is of them."""
    place, runs = tmp_path / "now" / coloured_npz.name, tmp_path / "runs"
    place.parent.mkdir()
    shutil.copy(coloured_npz, place)
    config = TrainConfig(data=str(place), **SHORT)
    document = compare(config, "independent", "1", runs=runs)
    arrays = dict(np.load(coloured_npz))
    arrays["train_x"] = 255 - arrays["train_x"]
    np.savez(place, **arrays)
    with pytest.raises(LfdeployError, match=r"on other pictures .* to train.*another --name"):
        compare(config, "independent", "1", runs=runs)
    (runs / "compare" / "compare.jsonl").unlink()
    with pytest.raises(LfdeployError, match="was trained on other pictures"):
        compare(config, "independent", "1", runs=runs)
    same = replace(config, data=str(coloured_npz))
    assert compare(same, "independent", "1", runs=runs)["rows"] == document["rows"]
    place.unlink()
    gone = replace(config, data=place.name)  # a table may be made again where the pictures are not
    with pytest.raises(LfdeployError):
        compare(gone, "independent,ffl", "1", runs=runs)
    capsys.readouterr()
    found = compare(replace(gone, data=coloured_npz.stem), "independent", "1", runs=runs)
    assert found["rows"] == document["rows"]
    assert "is not here" in capsys.readouterr().err


def test_networks_that_want_other_sizes_are_gone_on_with(tmp_path: Path) -> None:
    """Each line is held to the pictures as its own network sees them."""
    draw = np.random.default_rng(0)
    for label, name in enumerate(("red", "blue")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(14):
            pixels = draw.integers(0, 120, (100, 100, 3))
            pixels[..., 2 * label] += 110
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "data" / name / f"{number}.png")
    config = TrainConfig(data=str(tmp_path / "data"), epochs=1, steps=1, batch_size=8)
    methods = "independent:arch=resnet8:peers=1,independent:arch=mobilenet_v3_small:peers=1"
    base = methods.split(",")[0]
    first = compare(config, methods, "1", runs=tmp_path / "runs", against=base)
    again = compare(config, methods, "1", runs=tmp_path / "runs", against=base)
    assert again["rows"] == first["rows"] and len(first["rows"]) == 2


def test_runs_of_another_length_are_not_taken_over_where_nothing_is_said(
    coloured_npz: Path, tmp_path: Path
) -> None:
    """A trial of one epoch, and then the same command without the flag; nothing more is trained."""
    config = TrainConfig(data=str(coloured_npz), image_size=16, arch="resnet8", epochs=1, peers=1)
    compare(config, "independent", "1", runs=tmp_path)
    file = tmp_path / "compare" / "compare.jsonl"
    with pytest.raises(
        LfdeployError, match=r"with --epochs 1; without that flag it would be \d+. Add it, or"
    ):
        compare(replace(config, epochs=None), "independent", "2", runs=tmp_path)
    line = json.loads(file.read_text())
    line["settings"]["time"] = "10s"
    file.write_text(json.dumps(line) + "\n")
    with pytest.raises(LfdeployError, match="with --time 10s: add that flag, or"):
        compare(replace(config, epochs=None), "independent", "2", runs=tmp_path)
    assert sorted(path.name for path in (tmp_path / "compare").glob("*-s*")) == ["independent-s0"]


def test_a_diverged_run_is_left_out_and_said(coloured_npz: Path, tmp_path: Path) -> None:
    """Now and when the same is asked again; the others are compared without it."""
    config = TrainConfig(data=str(coloured_npz), lr=1e38, **SHORT)
    steady = "dml:arch=resnet14"
    with pytest.raises(LfdeployError, match="diverged"):
        compare(config, "dml", "1", runs=tmp_path / "runs")
    config = TrainConfig(data=str(coloured_npz), **SHORT)
    calm = compare(config, steady, "2", name="calm", runs=tmp_path / "runs")
    assert calm["remarks"] == []
    lost = tmp_path / "runs" / "calm" / "ffl-s1"
    shutil.copytree(tmp_path / "runs" / "compare" / "dml-s0", lost)
    values = json.loads((lost / "config.json").read_text()) | {"method": "ffl", "lr": 0.1, "seed": 1}
    (lost / "config.json").write_text(json.dumps(values))
    for _ in range(2):
        found = compare(config, f"ffl,{steady}", "2", name="calm", against=steady, runs=tmp_path / "runs")
        assert "ffl, seed 1, is left out" in found["remarks"][0]
        assert found["rows"][0]["cells"]["peers"]["difference"]["n"] == 1


def test_a_teacher_is_found_by_the_name_of_its_run(coloured_npz: Path, tmp_path: Path) -> None:
    config = TrainConfig(data=str(coloured_npz), **SHORT)
    train(replace(config, method="independent", peers=1), "big", tmp_path)
    found = compare(config, "kd:teacher=big,independent:peers=1", "1", runs=tmp_path)
    assert [row["label"] for row in found["rows"]] == ["kd:teacher=big", "independent:peers=1"]


def test_results_never_overwrite_what_is_not_theirs(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    for name, word in (("README.jsonl", "overwrite"), ("lines.json", "must end in .jsonl")):
        with pytest.raises(UsageError, match=word):
            compare(TrainConfig(), "ffl", "1", runs=tmp_path / "runs", results=tmp_path / name)
    assert (tmp_path / "README.md").read_text() == "mine" and not (tmp_path / "runs").exists()


def test_what_cannot_be_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--against"):
        compare(TrainConfig(), "ffl", "1", runs=tmp_path / "runs", against="dml")
    assert not (tmp_path / "runs").exists()
    file = tmp_path / "lines.jsonl"
    file.write_text('{"label": "ffl"}\n')
    with pytest.raises(LfdeployError, match="line 1"):
        compare(TrainConfig(), "ffl", "1", runs=tmp_path / "runs", results=file)


def test_the_command(lf: Callable[..., Result], coloured_npz: Path, tmp_path: Path) -> None:
    words = ["compare", "--methods", "dml,independent", "--seeds", "4,", "--data", coloured_npz]
    words += ["--arch", "resnet8", "--epochs", 1, "--runs", tmp_path, "--results", tmp_path / "kept.jsonl"]
    shown = lf(*words)
    assert shown.exit_code == 0 and "one seed: no spread is known" in " ".join(shown.stderr.split())
    document = json.loads(lf(*words, "--json").stdout)
    assert [row["label"] for row in document["rows"]] == ["dml", "independent"]
    assert (tmp_path / "kept.md").read_text().count("|") > 20


@pytest.mark.slow
def test_stopped_and_gone_on_with(coloured_npz: Path, tmp_path: Path, lf: Callable[..., Result]) -> None:
    """Ctrl-C in the middle of a run: the same command ends with the figures of one that was not stopped."""
    words = ["--methods", "ffl,independent", "--seeds", "1", "--data", str(coloured_npz), "--arch", "resnet8"]
    words += ["--epochs", "10", "--batch-size", "32", "--json", "--runs"]
    stopped, whole = str(tmp_path / "stopped"), str(tmp_path / "whole")
    command = [sys.executable, "-m", "lfdeploy", "compare", *words, stopped]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as made:
        assert made.stderr is not None
        for text in made.stderr:
            if text.startswith("epoch  2/10"):
                made.send_signal(signal.SIGINT)
                break
        rest = made.stderr.read()
    assert made.returncode == 130 and "the same command" in rest
    documents = []
    for runs in (stopped, whole):
        result = lf("compare", *words, runs)
        assert ("Resuming at epoch" in result.stderr) == (runs == stopped)
        documents.append(json.loads(result.stdout))
    for row in (row for document in documents for row in document["rows"]):
        del row["seconds"], row["time_ratio"]
    assert documents[0]["rows"] == documents[1]["rows"]
