"""One file with every output: the same answers as the separate files, no backbone twice, and no fault of a
member let through.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import member_mutants as members
import mutants
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from click.testing import Result
from made import made_once
from marks import some

from export import export, prove
from export.build.graph import in_precision
from export.parity.reference import reference, references
from lfdeploy.artifact import read
from lfdeploy.config import ExportConfig, TrainConfig
from lfdeploy.data import Split
from lfdeploy.errors import LfdeployError
from lfdeploy.run import Run
from serve.entries import find, open_all

pytestmark = pytest.mark.usefixtures("one_reference")


OUTPUTS = ["logits", "probabilities", "logits_peer0", "logits_peer1", "logits_ensemble"]
Note = Callable[[str, object], None]


@pytest.fixture(scope="session")
def together(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny run in one file, by precision, away from its other artifacts."""
    out = tmp_path_factory.mktemp("together")
    config = ExportConfig(all=True, single_file=True, precision="fp32,fp16,int8")
    made_once("together", lambda place: export(replace(config, out=str(place)), tiny_run), out)
    return {str(read(path).manifest["precision"]): path for path in out.iterdir()}


@pytest.fixture
def broken(together: dict[str, Path], tiny_run: Run, tmp_path: Path) -> Callable[[str], object]:
    return lambda precision: mutants.Subject(
        Path(shutil.copytree(together[precision], tmp_path / "broken")), tiny_run
    )


def judged(result: Result) -> tuple[int, str, str]:
    """Exit code, the stage and what the line names."""
    found = re.search(r"Error: .*?stage (\w+): (.*)", result.stderr)
    return (
        (result.exit_code, found.group(1), found.group(2))
        if found
        else (result.exit_code, "none", result.stderr)
    )


ALL = [("fp32", name, *row) for name, row in members.MEMBER_MUTANTS.items()]
ALL += [
    (precision, name, *row)
    for precision, rows in members.MEMBER_MUTANTS_IN.items()
    for name, row in rows.items()
]
SOME = some(ALL, 5)


@pytest.mark.parametrize(("precision", "name", "stage", "named", "mutate"), SOME)
def test_fault_of_a_member_is_caught(
    precision: str, name: str, stage: str, named: str | None, mutate: Callable[[object], None],
    tiny_run: Run, broken: Callable[[str], object], lf: Callable[..., Result], record_property: Note,
) -> None:  # fmt: skip
    subject = broken(precision)
    mutate(subject)
    code, found, line = judged(lf("verify", subject.path, "--run", tiny_run.path))  # type: ignore[attr-defined]
    record_property("fault", (name, stage, found if code == 3 else f"exit {code}"))
    assert code == 3, line
    assert found in stage.split(" or "), line
    if named is None:
        assert not re.match(r"(peer\d|ensemble): ", line), line
    else:
        assert re.match(named, line), line


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_untouched_passes(
    precision: str, tiny_run: Run, broken: Callable[[str], object], lf: Callable[..., Result]
) -> None:
    subject = broken(precision)
    subject.graph(lambda model: None)  # type: ignore[attr-defined]
    result = lf("verify", subject.path, "--run", tiny_run.path)  # type: ignore[attr-defined]
    assert result.exit_code == 0, result.stderr


def test_the_rare_nan_is_rare(tiny_run: Run) -> None:
    images = tiny_run.data().test.images
    with torch.inference_mode():
        logits = tiny_run.classifier("peer1")(torch.from_numpy(np.ascontiguousarray(images)))[0]
    assert 0 < (logits > members.LIMIT).any(1).float().mean() < 1


def test_it_answers_as_the_separate_files_do_and_holds_no_weight_twice(
    tiny_run: Run, together: dict[str, Path]
) -> None:
    pixels = np.ascontiguousarray(tiny_run.data().test.images[:32])

    def run(path: Path) -> dict[str, np.ndarray]:
        session = ort.InferenceSession(path / "model.onnx", providers=["CPUExecutionProvider"])
        return dict(
            zip([o.name for o in session.get_outputs()], session.run(None, {"images": pixels}), strict=True)
        )

    whole = run(together["fp32"])
    assert list(whole) == OUTPUTS
    separate = {
        name: tiny_run.artifacts / f"{name}-onnx-fp32" for name in ("fused", "peer0", "peer1", "ensemble")
    }
    for name, path in separate.items():
        output = "logits" if name == "fused" else f"logits_{name}"
        np.testing.assert_allclose(
            whole[output], run(path)["logits"], rtol=0, atol=2e-6 * float(np.abs(whole[output]).max())
        )
    np.testing.assert_allclose(
        whole["probabilities"], run(separate["fused"])["probabilities"], rtol=0, atol=1e-6
    )
    convolutions = {
        path: sum(node.op_type == "Conv" for node in onnx.load(path / "model.onnx").graph.node)
        for path in (together["fp32"], *separate.values())
    }
    assert convolutions[together["fp32"]] == convolutions[separate["fused"]]
    size = (together["fp32"] / "model.onnx").stat().st_size
    assert size < 1.05 * (separate["fused"] / "model.onnx").stat().st_size
    assert size < 0.5 * sum((path / "model.onnx").stat().st_size for path in separate.values())


def test_manifest_card_and_report_tell_of_every_member(tiny_run: Run, together: dict[str, Path]) -> None:
    for path in together.values():
        manifest = read(path).manifest
        assert (manifest["target"], manifest["main"]) == ("all", "fused")
        assert [o["name"] for o in manifest["outputs"]] == OUTPUTS
        told = manifest["accuracy"]["members"]
        assert list(told) == ["peer0", "peer1", "ensemble"]
        for name, row in told.items():
            own = json.loads((tiny_run.artifacts / f"{name}-onnx-fp32" / "manifest.json").read_text())[
                "accuracy"
            ]
            assert row["top1_reference"] == own["top1_reference"]
            assert row["images"] == own["images"]
            assert (
                f"| top-1 of `logits_{name}` | {row['top1']:.2f} % (PyTorch: {row['top1_reference']:.2f} %) |"
                in (path / "README.md").read_text()
            )
            assert f"<tr><td>{name}<td class=n>{row['top1']:.2f} %" in (path / "report.html").read_text()
        for name in told:
            checks = [c for c in manifest["parity"]["checks"] if c["name"].startswith(f"{name}: ")]
            assert {c["stage"] for c in checks} == {"reference", "finite", "values", "labels", "accuracy"}
    nodes = {
        o
        for node in onnx.load(together["int8"] / "model.onnx").graph.node
        for o in node.output
        if node.op_type == "Gemm"
    }
    assert nodes == {"logits", "logits_peer0", "logits_peer1"}  # fp32 straight from their layers


def test_a_reference_is_computed_once_for_all_that_need_it(
    tiny_run: Run, together: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, true = [], prove.reference
    monkeypatch.setattr(
        prove, "reference", lambda run, target, *rest: asked.append(target) or true(run, target, *rest)
    )  # type: ignore[func-returns-value]
    given = [
        read(together["fp32"]),
        read(tiny_run.artifacts / "peer0-onnx-fp32"),
        read(tiny_run.artifacts / "fused-onnx-fp32"),
    ]
    assert [report.verdict for report in prove.prove(tiny_run, given)] == ["pass"] * 3
    assert sorted(asked) == ["ensemble", "fused", "peer0", "peer1"]


@pytest.mark.slow
def test_every_command_takes_it(
    tiny_run: Run, together: dict[str, Path], lf: Callable[..., Result], tmp_path: Path
) -> None:
    from PIL import Image

    path, runs = together["fp32"], tiny_run.path.parent
    Image.fromarray(tiny_run.data().test.images[0]).save(tmp_path / "picture.png")
    fused = tiny_run.artifacts / "fused-onnx-fp32"
    found = [json.loads(lf("evaluate", p, "--runs", runs, "--json").stdout) for p in (path, fused)]
    assert found[0]["nodes"]["all"] == found[1]["nodes"]["fused"]
    answers = []
    for subject, backend in ((path, "auto"), (path, "pytorch"), (fused, "auto")):
        words = (
            "predict",
            subject,
            tmp_path / "picture.png",
            "--run",
            tiny_run.path,
            "--backend",
            backend,
            "--top",
            1,
            "--json",
        )
        answers.append(json.loads(lf(*words).stdout)["predictions"][0]["top"][0])
    for answer in answers:
        assert answer["label"] == answers[2]["label"]
        assert answer["probability"] == pytest.approx(answers[2]["probability"], abs=1e-5)
    (entry,) = open_all(find([path]))
    assert (entry.key, entry.verdict) == (path.name, "export verified")
    assert entry.predictor is not None
    assert "runs here" in lf("doctor", path, "--runs", runs).stdout
    measured = lf("bench", path, "--runs", runs, "--rounds", 3, "--seconds", 0, "--batch", 1, "--json")
    assert measured.exit_code == 0, measured.stderr
    assert {row["backend"] for row in json.loads(measured.stdout)["rows"]} == {"pytorch", "onnxruntime"}
    first = json.loads(lf("bisect", path, "--run", tiny_run.path, "--images", 4, "--json").stdout)
    assert first["first"] is None, first["sentence"]


@pytest.mark.slow
def test_bisect_names_the_head_of_a_peer(
    tiny_run: Run, broken: Callable[[str], object], lf: Callable[..., Result]
) -> None:
    subject = broken("fp32")
    subject.export(members.head_of(1, lambda w: w[3, 5].mul_(1.5)))  # type: ignore[attr-defined]
    found = json.loads(lf("bisect", subject.path, "--run", tiny_run.path, "--images", 4, "--json").stdout)  # type: ignore[attr-defined]
    assert found["first"]["layer"].startswith("peers.1.head"), found["sentence"]


def test_folding_sees_every_output(tiny_run: Run) -> None:
    classifier = in_precision(tiny_run.classifier("all"), "fp32", 16)
    assert classifier.outputs == tuple(OUTPUTS)
    assert not [m for m in classifier.modules() if isinstance(m, torch.nn.BatchNorm2d)]


def test_what_makes_no_sense_is_refused_in_one_line(
    tiny_run: Run, lf: Callable[..., Result], coloured_npz: Path, tmp_path: Path
) -> None:
    from training import train

    alone = lf("export", tiny_run.path, "--peer", 0, "--single-file")
    assert (alone.exit_code, alone.stderr.strip()) == (
        2,
        "Error: --single-file has no meaning without --all; add it.",
    )
    one = train(
        TrainConfig(data=str(coloured_npz), peers=1, method="independent", epochs=1),
        name="one",
        runs=tmp_path / "runs",
    )
    with pytest.raises(
        LfdeployError, match=r"Run one has one network and no fused classifier.*Use --peer 0\."
    ):
        export(ExportConfig(all=True, single_file=True), one)
    assert not list(one.artifacts.glob("*"))


@pytest.mark.slow
def test_without_a_fused_classifier_the_ensemble_is_the_main(coloured_npz: Path, tmp_path: Path) -> None:
    from training import train

    config = TrainConfig(data=str(coloured_npz), arch="resnet8,resnet14", method="independent", epochs=1)
    run = train(config, name="two", runs=tmp_path / "runs")
    made = export(ExportConfig(all=True, single_file=True), run)[0]
    assert (made.name, made.verdict, made.manifest["main"]) == ("all-onnx-fp32", "pass", "ensemble")
    assert [o["name"] for o in made.manifest["outputs"]] == [
        "logits",
        "probabilities",
        "logits_peer0",
        "logits_peer1",
    ]


@pytest.mark.slow
def test_the_temperature_is_the_main_output_s(tiny_run: Run, tmp_path: Path) -> None:
    """The same T as the fused file's own; members' logits stay as they are."""
    config = {"calibrate": True, "accuracy_when_sure": 90.0}
    whole = export(ExportConfig(all=True, single_file=True, out=str(tmp_path / "whole"), **config), tiny_run)[
        0
    ]
    fused = export(ExportConfig(fused=True, out=str(tmp_path / "fused"), **config), tiny_run)[0]
    key = "probability_calibration"
    assert whole.manifest[key] == fused.manifest[key]
    assert whole.manifest[key]["temperature"] is not None
    assert whole.verdict == "pass"


@pytest.mark.wide
def test_same_bytes_from_another_folder_in_another_process(
    tiny_run: Run, together: dict[str, Path], tmp_path: Path
) -> None:
    elsewhere = shutil.copytree(
        tiny_run.path, tmp_path / "a" / "b" / tiny_run.name, ignore=shutil.ignore_patterns("artifacts")
    )
    command = [
        str(Path(sys.executable).with_name("lfdeploy")),
        "export",
        str(elsewhere),
        "--all",
        "--single-file",
    ]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    again = elsewhere / "artifacts" / "all-onnx-fp32" / "model.onnx"
    assert again.read_bytes() == (together["fp32"] / "model.onnx").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "precision"),
    [
        pytest.param("torch", "fp32", marks=pytest.mark.wide),
        ("openvino", "fp32"),
        pytest.param("openvino", "fp16", marks=pytest.mark.wide),
        pytest.param("onnx", "bf16", marks=pytest.mark.wide),
    ],
)
def test_other_formats(format: str, precision: str, tiny_run: Run, tmp_path: Path) -> None:
    made = export(
        ExportConfig(
            all=True, single_file=True, format=format, precision=precision, out=str(tmp_path / "it")
        ),
        tiny_run,
    )[0]
    assert made.verdict == ("unverified" if precision == "bf16" else "pass")
    assert list(made.manifest["accuracy"]["members"]) == ["peer0", "peer1", "ensemble"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "precision", [*(pytest.param(p, marks=pytest.mark.wide) for p in ("fp32", "fp16")), "int8"]
)
def test_engine_holds_every_output(precision: str, tiny_run: Run, tmp_path: Path) -> None:
    config = ExportConfig(
        all=True,
        single_file=True,
        format="trt",
        engine="tensorrt-rtx",
        precision=precision,
        out=str(tmp_path / "it"),
    )
    made = export(config, tiny_run)[0]
    assert made.verdict in ("unverified", "pass")
    assert [o["name"] for o in made.manifest["outputs"]] == OUTPUTS
    assert list(made.manifest["accuracy"]["members"]) == ["peer0", "peer1", "ensemble"]


def test_references_of_one_pass_are_those_of_the_separate_modules(tiny_run: Run) -> None:
    data = tiny_run.data()
    split = Split(data.test.images[:40], data.test.labels[:40], data.test.digest, data.test.digests[:40])
    shared = references(tiny_run, split, data)
    assert set(shared) == {"peer0", "peer1", "fused", "ensemble"}
    for target, found in shared.items():
        alone = reference(tiny_run, target, split, data)
        assert (found.target, found.logits.shape) == (target, alone.logits.shape)
        for ours, theirs in ((found.logits, alone.logits), (found.probe_logits, alone.probe_logits)):
            assert np.abs(ours - theirs).max() <= 1e-6 * np.abs(theirs).max()
