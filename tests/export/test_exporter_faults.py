"""The gate against its own maker: broken functions of ours, in the process that makes the file and in the one
that judges it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import exporter_faults as faults
import numpy as np
import pytest
from PIL import Image

import export.publish
from export import export as make
from export.build.graph import traced_graph
from lfdeploy.config import ExportConfig, TrainConfig
from lfdeploy.errors import LfdeployError
from lfdeploy.run import Run

HERE = Path(__file__)
EXPORT = HERE.parents[2] / "export"
MAKERS = ("build.", "pipeline", "publish", "parity.origin", "triton")
EVIDENCE = [f"independent.{path.stem}" for path in (EXPORT / "independent").glob("[a-z]*.py")] + [
    "parity.bounds"
]
Note = Callable[[str, object], None]


@pytest.fixture(autouse=True)
def _nothing_remembered() -> Iterator[None]:
    """A graph that was traced by other functions than today's is no answer."""
    traced_graph.cache_clear()
    yield
    traced_graph.cache_clear()


@pytest.fixture(scope="session")
def filed_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One resnet8 on pictures that are files, wider than high, of three classes."""
    from training import train

    folder = tmp_path_factory.mktemp("filed")
    random = np.random.default_rng(0)
    for label, colour in {"red": (200, 40, 40), "green": (40, 180, 60), "blue": (50, 60, 200)}.items():
        (folder / "pictures" / label).mkdir(parents=True)
        for number in range(60):
            ramp = np.linspace(-60, 60, 64)[None, :, None]
            pixels = np.array(colour) + ramp + random.normal(0, 30, (44, 64, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(
                folder / "pictures" / label / f"{number}.png"
            )
    config = TrainConfig(
        data=str(folder / "pictures"), arch="resnet8", peers=1, method="independent", epochs=2, lr=0.01
    )
    return train(config, name="filed", runs=folder / "runs")


def refused_at(run: Run, format: str, precision: str, out: Path, patch: pytest.MonkeyPatch) -> str:
    """The stage that refuses peer 0 of a run, made and judged by the functions as they are now; empty where
    none does.
    """
    patch.setattr(export.publish, "speedup", lambda *args: {"1": {"ratio": 1.0, "low": 1.0, "high": 1.0}})
    try:
        make(ExportConfig(peer=0, format=format, precision=precision, out=str(out)), run)
    except LfdeployError as error:
        stage = re.search(r"stage (\w+)", str(error))
        return stage.group(1) if stage else f"no stage: {error}"
    return ""


def name_of(fault: tuple[str, str, str]) -> str:
    return "-".join(fault).replace(" ", "_")


def marked(fault: tuple[str, str, str]) -> Any:
    return pytest.param(
        fault, marks=pytest.mark.slow if fault in faults.CI else pytest.mark.wide, id=name_of(fault)
    )


@pytest.mark.parametrize("fault", [marked(fault) for fault in faults.FAULTS])
def test_a_fault_of_the_exporter_is_refused(
    fault: tuple[str, str, str],
    tiny_run: Run,
    filed_run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Note,
) -> None:
    format, precision, name = fault
    run = filed_run if name.startswith("decoded") else tiny_run
    faults.FAULTS[fault](monkeypatch)
    stage = refused_at(run, format, precision, tmp_path / "artifact", monkeypatch)
    record_property("exporter", (f"{format} {precision}: {name}", stage))
    assert stage, "published"
    assert stage != "origin", "only by making the file again with the broken code"


@pytest.mark.slow
@pytest.mark.parametrize(("format", "precision"), list(dict.fromkeys(fault[:2] for fault in faults.FAULTS)))
def test_the_healthy_neighbour_passes(
    format: str, precision: str, tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refused_at(tiny_run, format, precision, tmp_path / "artifact", monkeypatch) == ""


@pytest.mark.slow
def test_the_healthy_run_of_files_passes(
    filed_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refused_at(filed_run, "onnx", "fp32", tmp_path / "artifact", monkeypatch) == ""


def imported(module: str) -> set[str]:
    """What a module of export/ imports from export/, itself and through others."""
    known: set[str] = set()
    pending = [module]
    while pending:
        tree = ast.parse((EXPORT / f"{pending.pop().replace('.', '/')}.py").read_text(encoding="utf-8"))
        names = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
        own = {name.removeprefix("export.") for name in names if name.startswith("export.")}
        pending += own - known
        known |= own
    return known


@pytest.mark.parametrize("module", EVIDENCE)
def test_evidence_does_not_come_from_the_maker(module: str) -> None:
    assert [name for name in imported(module) if name.startswith(MAKERS)] == []


def test_there_are_enough() -> None:
    assert len(faults.FAULTS) >= 80
    assert len(faults.CI) >= 20
    assert {(fault[0], fault[1]) for fault in faults.CI} == {(fault[0], fault[1]) for fault in faults.FAULTS}


@pytest.mark.slow
def test_a_picture_that_went_hides_no_fault_of_ranges(
    filed_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One test picture is gone; the training pictures, which ranges are held to, are all there."""
    record = filed_run.record()
    assert record is not None
    place = Path(filed_run.data_config().data) / record.splits["test"].paths[0]
    kept = place.rename(tmp_path / place.name)
    try:
        assert refused_at(filed_run, "onnx", "int8", tmp_path / "healthy", monkeypatch) == ""
        faults.FAULTS["onnx", "int8", "all ranges x2"](monkeypatch)
        assert refused_at(filed_run, "onnx", "int8", tmp_path / "wide", monkeypatch) in (
            "values",
            "arithmetic",
        )
    finally:
        kept.rename(place)
