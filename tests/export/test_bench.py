"""`lfdeploy bench`: ratios against brute force, the load detector, foreign files,
and everything it writes.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import Result
from onnx import TensorProto, helper
from PIL import Image

from export.bench import busy
from export.bench.ratios import speed_ratio
from export.bench.rounds import warm_up
from export.bench.table import apart, legend
from lfdeploy.run import Run

LF = str(Path(sys.executable).with_name("lfdeploy"))
QUICK = ("--rounds", 3, "--seconds", 0.2)


def test_ratio_against_brute_force() -> None:
    """All n^n resamples of five rounds, instead of the seeded draws."""
    random = np.random.default_rng(3)
    reference, row = random.uniform(2, 3, (5, 4)), random.uniform(1, 2, (5, 4))
    pairs = [min(a) / min(b) for a, b in zip(reference.tolist(), row.tolist(), strict=True)]
    medians = sorted(sorted(draw)[2] for draw in product(pairs, repeat=5))
    found = speed_ratio(reference, row)
    assert found.ratio == pytest.approx(sorted(pairs)[2], rel=1e-12)
    assert found.low == pytest.approx(medians[math.floor(0.025 * len(medians))], rel=1e-12)
    assert found.high == pytest.approx(medians[math.ceil(0.975 * len(medians))], rel=1e-12)
    assert speed_ratio(reference, row) == found


def test_ratio_holds_where_most_calls_are_disturbed() -> None:
    """A row that is truly twice as fast, on a machine whose speed drifts and where 60 % of the calls are hit
    by others.
    """
    random = np.random.default_rng(0)
    drift = np.exp(0.5 * np.sin(np.arange(30) / 5))[:, None]
    hit = [np.where(random.random((30, 20)) < 0.6, random.uniform(1, 50, (30, 20)), 0.0) for _ in range(2)]
    small = [1 + 0.02 * random.random((30, 20)) for _ in range(2)]
    found = speed_ratio((2.0 * small[0] + hit[0]) * drift, (1.0 * small[1] + hit[1]) * drift)
    assert found.low <= 2.0 <= found.high
    assert abs(found.ratio - 2) < 0.02 and found.high - found.low < 0.04


def test_warm_up_goes_on_while_calls_get_faster() -> None:
    made: list[float] = []

    def once() -> float:
        made.append(max(1.0, 20.0 * 0.8 ** len(made)))
        return made[-1]

    assert warm_up(once) == 1.0
    assert 14 <= len(made) <= 20
    slow: list[float] = []

    def compiles() -> float:
        slow.append(30_000.0 if not slow else 1500.0)
        return slow[-1]

    assert warm_up(compiles) == 1500.0
    assert len(slow) == 3  # the compiling call does not count against the time


# Two readings of a four-core machine: user nice system idle iowait irq softirq steal guest guest_nice
BEFORE = """cpu  4000 100 400 90000 50 0 10 20 700 0
cpu0 1000 25 100 22500 10 0 2 5 700 0
cpu1 1000 25 100 22500 10 0 3 5 0 0
cpu2 1000 25 100 22500 10 0 2 5 0 0
cpu3 1000 25 100 22500 20 0 3 5 0 0
intr 12 34
cpufreq 5
"""
AFTER = BEFORE.replace("cpu0 1000 25 100 22500 10 0 2 5 700", "cpu0 1080 25 110 22500 10 0 2 15 780").replace(
    "cpu1 1000 25 100 22500 10", "cpu1 1000 45 100 22560 30"
)


def test_busy_time_of_recorded_counters() -> None:
    """cpu0: 0.8 s user (as a guest), 0.1 s system, 0.1 s stolen; cpu1: 0.2 s nice, the rest idle or waiting
    for a disk.
    """
    spent = [
        busy.busy_seconds(AFTER, cores, 100) - busy.busy_seconds(BEFORE, cores, 100)
        for cores in ([0], [1], [0, 1], [2, 3], range(4))
    ]
    assert spent == pytest.approx([1.0, 0.2, 1.2, 0.0, 1.2])


def reading(busy_s: float, own: float, clock: float) -> busy.Reading:
    return busy.Reading(busy_s, own, clock, 2)


def test_own_work_is_not_foreign() -> None:
    start = reading(100.0, 5.0, 50.0)
    assert busy.share(start, reading(101.0, 6.0, 51.0)) == 0
    assert busy.share(start, reading(101.5, 6.0, 51.0)) == pytest.approx(0.25)
    assert busy.share(start, reading(100.99, 6.0, 51.0)) == 0  # counters of ticks against an exact clock
    quiet, loud = (start, reading(101.1, 6.0, 51.0)), (start, reading(101.5, 6.0, 51.0))
    short = (start, reading(100.02, 5.0, 50.02))  # one tick too many on either core
    found = busy.summary([quiet, loud, short, quiet])
    assert found["rounds_above"] == 1
    assert found["rounds"] == pytest.approx([0.05, 0.25, 0.5, 0.05])
    assert found["share"] == pytest.approx(0.72 / 6.04)
    assert "12 % of the CPU time while measuring, more than 10 % in 1 of 4 rounds" in busy.note(found, 0.0, 2)
    assert busy.note(busy.summary([quiet] * 30), 99.0, 2) == ""
    assert "load 3.0" in busy.note(None, 3.0, 2)


@pytest.mark.skipif(not busy.STAT.exists(), reason="needs /proc/stat")
def test_own_threads_are_taken_off_for_real() -> None:
    before = busy.read()
    limit = time.process_time() + 0.6
    while time.process_time() < limit:
        pass
    after = busy.read()
    assert before and after
    assert (after.busy - before.busy) - busy.foreign_seconds(before, after) >= 0.5


@pytest.mark.skipif(not busy.STAT.exists(), reason="needs /proc/stat")
def test_a_busy_neighbour_is_named(tiny_run: Run, lf: Callable[..., Result]) -> None:
    """One spinning process per core beside a real measurement."""
    spinners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in os.sched_getaffinity(0)]
    try:
        result = lf(
            "bench",
            tiny_run.artifacts / "peer0-onnx-fp32",
            "--batch",
            "8",
            "--rounds",
            3,
            "--seconds",
            0.5,
            "--json",
        )
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()
    document = json.loads(result.stdout)
    assert document["foreign_load"]["rounds_above"] == 3
    assert document["foreign_load"]["share"] > 0.1
    assert len(document["foreign_load"]["rounds"]) == 3
    assert any("in 3 of 3 rounds: trust the ratios" in note for note in document["notes"])


def foreign_onnx(
    path: Path, dtype: int, shape: list[Any], channels_last: bool, outside: bool = False
) -> Path:
    """A pooled linear classifier as another exporter would write it; ``outside``: its weights in a file of
    their own.
    """
    channels = shape[3] if channels_last else shape[1]
    weights = np.random.default_rng(0).standard_normal((channels, 512)).astype(np.float32)
    axes = helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2] if channels_last else [2, 3])
    nodes = [
        helper.make_node("Cast", ["pixels"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "weights"], ["scores"]),
    ]
    tensor = onnx.numpy_helper.from_array(weights, "weights")
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("pixels", dtype, shape)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [shape[0], 512])],
        [tensor, axes],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path, save_as_external_data=outside, location=f"{path.name}.data", size_threshold=100)
    return path


def test_foreign_files_of_every_kind(tiny_run: Run, tmp_path: Path, lf: Callable[..., Result]) -> None:
    """uint8 NHWC of any size, float NCHW with a fixed batch, weights outside the file, and our own model.onnx
    far from its manifest.
    """
    files = [
        foreign_onnx(tmp_path / "bytes.onnx", TensorProto.UINT8, ["n", "h", "w", 3], True),
        foreign_onnx(tmp_path / "floats.onnx", TensorProto.FLOAT, [8, 3, 20, 24], False),
        foreign_onnx(tmp_path / "outside.onnx", TensorProto.FLOAT, ["n", 3, 16, 16], False, outside=True),
        Path(shutil.copy(tiny_run.artifacts / "peer0-onnx-fp32" / "model.onnx", tmp_path / "ours.onnx")),
    ]
    result = lf(
        "bench",
        tiny_run.artifacts / "peer0-onnx-fp32" / "model.onnx",
        *files,
        "--batch",
        "1,8",
        *QUICK,
        "--json",
    )
    document = json.loads(result.stdout)
    rows = {(row["artifact"], row["backend"], row["batch"]): row for row in document["rows"]}
    assert {(name, batch) for name, _, batch in rows if rows[name, _, batch]["foreign"]} == {
        *product(("bytes.onnx", "outside.onnx", "ours.onnx"), (1, 8)),
        ("floats.onnx", 8),
    }
    assert not rows["peer0-onnx-fp32", "onnxruntime", 1]["foreign"]
    assert "floats.onnx (onnxruntime) takes batches of 8: no row for 1." in document["notes"]
    for row in document["rows"]:
        assert row["against"] == "peer0 (pytorch)"
        assert (row["top1"] is None) == row["foreign"]
        assert 0 < row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
        assert row["samples"] == 3 * row["calls"]
    outside = tmp_path / "outside.onnx"
    assert (tmp_path / "outside.onnx.data").stat().st_size >= 3 * 512 * 4
    assert (
        rows["outside.onnx", "onnxruntime", 1]["bytes"]
        == outside.stat().st_size + (tmp_path / "outside.onnx.data").stat().st_size
    )


FOREIGN_MISTAKES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no onnx": (lambda p: [p.write_bytes(b"nothing"), p][1], "cannot be loaded by onnxruntime"),
    "open size alone": (
        lambda p: foreign_onnx(p, TensorProto.UINT8, ["n", "h", "w", 3], True),
        "leaves height and width open",
    ),
    "five channels": (
        lambda p: foreign_onnx(p, TensorProto.FLOAT, ["n", 5, 8, 8], False),
        "neither first nor last axis is 3 channels",
    ),
    "doubles": (lambda p: foreign_onnx(p, TensorProto.DOUBLE, ["n", 3, 8, 8], False), "uint8 or float"),
}


@pytest.mark.parametrize("name", FOREIGN_MISTAKES)
def test_foreign_files_that_cannot_be_measured(name: str, tmp_path: Path, lf: Callable[..., Result]) -> None:
    make, said = FOREIGN_MISTAKES[name]
    result = lf("bench", make(tmp_path / "other.onnx"), *QUICK)
    assert result.exit_code == 1
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_what_is_missing_or_broken_leaves_the_others(tmp_path: Path, lf: Callable[..., Result]) -> None:
    whole = foreign_onnx(tmp_path / "whole.onnx", TensorProto.FLOAT, ["n", 3, 8, 8], False)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"nothing")
    flags = ("--runs", tmp_path / "runs", *QUICK)
    result = lf("bench", "fused-trt-fp32", broken, whole, "--batch", "1", *flags, "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert [row["artifact"] for row in document["rows"]] == ["whole.onnx"]
    absent = [note.split(" is not in the table: ")[0] for note in document["notes"][:2]]
    assert absent == ["fused-trt-fp32", str(broken)]
    alone = lf("bench", "fused-trt-fp32", *flags)
    assert (alone.exit_code, len(alone.stderr.splitlines())) == (1, 1)


def test_a_foreign_file_that_fails_at_one_batch_leaves_the_others(
    tmp_path: Path, lf: Callable[..., Result]
) -> None:
    """It declares any batch, and computes only one."""
    path = foreign_onnx(tmp_path / "liar.onnx", TensorProto.FLOAT, ["n", 3, 8, 8], False)
    model = onnx.load(path)
    model.graph.initializer.append(helper.make_tensor("shape", TensorProto.INT64, [2], [1, 512]))
    model.graph.node.append(helper.make_node("Reshape", ["scores", "shape"], ["one"]))
    model.graph.output[0].name = "one"
    onnx.save(model, path)
    document = json.loads(lf("bench", path, "--batch", "1,8", *QUICK, "--json").stdout)
    assert [row["batch"] for row in document["rows"]] == [1]
    assert any("liar.onnx fails at batch 8" in note for note in document["notes"])


def test_markdown_and_plot_for_real(tiny_run: Run, tmp_path: Path, lf: Callable[..., Result]) -> None:
    names = [tiny_run.artifacts / "peer0-onnx-fp32", tiny_run.artifacts / "fused-onnx-fp32"]
    table, picture = tmp_path / "table.md", tmp_path / "plot.png"
    result = lf("bench", *names, "--batch", "1,8", *QUICK, "--json", "--markdown", table, "--plot", picture)
    document = json.loads(result.stdout)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["plot.png", "table.md"]
    lines = table.read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert {len(row) for row in rows} == {9}
    assert [(r[0], r[1], int(r[2])) for r in rows[2:]] == [
        (r["artifact"], r["backend"], r["batch"]) for r in document["rows"]
    ]
    for cells, row in zip(rows[2:], document["rows"], strict=True):
        assert float(cells[3]) == pytest.approx(row["p50_ms"], rel=0.01)
        if row["backend"] == "pytorch":
            assert cells[6] == "1 (reference)"
        else:
            # one or two decimals are shown
            assert float(cells[6].split("x")[0]) == pytest.approx(row["ratio"], abs=0.051)
        assert float(cells[8]) == pytest.approx(row["top1"], abs=0.01)
    assert f"3 interleaved rounds, {document['threads']} thread" in table.read_text()
    assert str(tmp_path) not in table.read_text()
    with Image.open(picture) as found:
        pixels = np.asarray(found.convert("RGBA"))
    assert pixels.shape[1] > 1000
    assert (pixels[..., 3] == 255).all()  # not see-through: the same on a dark page
    assert pixels[0, 0, :3].tolist() == [255, 255, 255]
    shown = lf("bench", names[0], "--batch", "1", *QUICK, "--markdown", "-")
    assert shown.stdout.startswith("| artifact | backend | batch |")


@pytest.mark.slow
def test_table_fits_100_columns(tiny_run: Run, elsewhere: list[Path], tmp_path: Path) -> None:
    """On a real terminal of 100 columns: one line per row, none wider, and a long name loses its middle."""
    long = shutil.copytree(
        tiny_run.artifacts / "fused-onnx-fp32", tmp_path / "a-name-that-is-much-too-long-for-any-table-fp32"
    )
    words = [
        LF,
        "bench",
        *map(str, [*elsewhere, long]),
        "--runs",
        str(tiny_run.path.parent),
        "--batch",
        "1,8",
        *map(str, QUICK),
    ]
    here, there = pty.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    env = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")} | {
        "TERM": "xterm",
        "NO_COLOR": "1",
    }
    done = subprocess.Popen(words, stdout=there, stderr=subprocess.DEVNULL, env=env)
    os.close(there)
    text = b""
    try:
        while part := os.read(here, 65536):
            text += part
    except OSError:  # the other end closed
        pass
    os.close(here)
    assert done.wait() == 0
    lines = re.sub(r"\x1b\[[0-9;]*m|\r", "", text.decode()).splitlines()
    assert max(map(len, lines)) <= 100
    body = [line.split() for line in lines if line.strip()][3:]
    # two batches; two modules, the files and the long one
    assert len(body) == 2 + 2 * (2 + len(elsewhere) + 1)
    assert any(
        word.startswith("a-n") and "…" in word and word.endswith("fp32") for line in body for word in line[:1]
    )


def test_threads_are_the_same_for_all_and_given_back(tiny_run: Run, lf: Callable[..., Result]) -> None:
    before = torch.get_num_threads()
    document = json.loads(
        lf(
            "bench", tiny_run.artifacts / "peer0-onnx-fp32", "--threads", 2, "--batch", "1", *QUICK, "--json"
        ).stdout
    )
    assert document["threads"] == 2
    assert torch.get_num_threads() == before


@pytest.mark.slow
def test_backends_take_the_number_of_threads(tiny_run: Run, elsewhere: list[Path]) -> None:
    from lfdeploy.artifact import read
    from lfdeploy.backends import BACKENDS, Source, executes

    opened = {}
    for path in (tiny_run.artifacts / "peer0-onnx-fp32", elsewhere[0]):
        artifact = read(path)
        name = executes(artifact.manifest)
        opened[name] = BACKENDS[name].open(Source(artifact.file, artifact.manifest, None, 2), "cpu")
    options = opened["onnxruntime"].session.get_session_options()
    assert options.intra_op_num_threads == 2
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert opened["openvino"].compiled.get_property("INFERENCE_NUM_THREADS") == 2


def test_against_another_row(tiny_run: Run, lf: Callable[..., Result]) -> None:
    names = [tiny_run.artifacts / "peer0-onnx-fp32", tiny_run.artifacts / "fused-onnx-fp32"]
    rows = json.loads(
        lf("bench", *names, "--batch", "8", *QUICK, "--against", "fused-onnx-fp32", "--json").stdout
    )["rows"]
    assert {row["against"] for row in rows} == {"fused-onnx-fp32 (onnxruntime)"}
    assert [
        (r["ratio"], r["ratio_low"], r["ratio_high"]) for r in rows if r["artifact"] == "fused-onnx-fp32"
    ] == [(1.0, 1.0, 1.0)]


def test_without_its_run_the_first_artifact_is_the_reference(
    copied: Callable[[str], Path], tmp_path: Path, lf: Callable[..., Result]
) -> None:
    names = [copied("peer0-onnx-fp32"), copied("fused-onnx-fp32")]
    document = json.loads(lf("bench", *names, "--batch", "8", *QUICK, "--runs", tmp_path, "--json").stdout)
    assert [(r["artifact"], r["against"]) for r in document["rows"]] == [
        (name, "peer0-onnx-fp32 (onnxruntime)") for name in ("peer0-onnx-fp32", "fused-onnx-fp32")
    ]
    assert sum("No pytorch row" in note for note in document["notes"]) == 2


BAD = {
    "no such row": (["--against", "peer0-onnx-fp23"], "Did you mean 'peer0-onnx-fp32'"),
    "two documents on one output": (["--markdown", "-", "--json"], "drop one"),
    "plot of another kind": (["--plot", "x.pdf"], "ends in .png"),
    "plot nowhere": (["--plot", "no/such/x.png"], "there is no directory no/such"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_flags_get_one_line(name: str, tiny_run: Run, lf: Callable[..., Result]) -> None:
    words, said = BAD[name]
    result = lf("bench", tiny_run.artifacts / "peer0-onnx-fp32", *words, *QUICK)
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.slow
def test_no_compiler_is_a_note(tiny_run: Run) -> None:
    words = [
        LF,
        "bench",
        str(tiny_run.artifacts / "peer0-onnx-fp32"),
        "--compile",
        "--batch",
        "1",
        *map(str, QUICK),
        "--json",
    ]
    done = subprocess.run(
        words, env=os.environ | {"CXX": "no-such-compiler"}, capture_output=True, text=True, check=True
    )
    document = json.loads(done.stdout)
    assert [row["backend"] for row in document["rows"]] == ["pytorch", "onnxruntime"]
    assert (
        "No torch.compile row for peer0: it needs a C++ compiler; install g++, or set CXX to one."
        in document["notes"]
    )


@pytest.mark.wide
def test_torch_compile_has_a_row(tiny_run: Run) -> None:
    words = [
        LF,
        "bench",
        str(tiny_run.artifacts / "peer0-onnx-fp32"),
        "--compile",
        "--batch",
        "8",
        *map(str, QUICK),
        "--json",
    ]
    rows = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)["rows"]
    assert [row["backend"] for row in rows] == ["pytorch", "torch.compile", "onnxruntime"]
    assert {row["against"] for row in rows} == {"peer0 (pytorch)"}


def test_labels_do_not_touch() -> None:
    assert apart([0.1, 0.5, 0.9], 0.2) == pytest.approx([0.1, 0.5, 0.9])
    assert apart([0.5, 0.5, 0.5], 0.2) == pytest.approx([0.3, 0.5, 0.7])
    found = apart([0.0, 0.4, 0.41, 0.42, 0.6, 2.0], 0.1)
    assert min(np.diff(found)) >= 0.1 - 1e-9
    assert (found[0], found[-1]) == (0.0, 2.0)


def test_without_a_reference_no_speed_is_explained() -> None:
    assert legend({"rows": [{"against": None}]}) == "p50, p95: of all calls."
