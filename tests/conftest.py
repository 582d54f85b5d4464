"""One small trained run with verified artifacts, made once a session."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from made import made_once

from lfdeploy import recall
from lfdeploy.cli import main
from lfdeploy.config import ExportConfig, TrainConfig
from lfdeploy.images import fit_all
from lfdeploy.run import Run
from training import plots

DRAW = plots.draw
# Files that take a process a minute and more: begun late, one of them would hold up the end alone.
# Two that need nothing of each other come first: the tiny run is made by one process, and others wait for it.
LONG = (
    "test_methods_whole",
    "test_cli",
    "test_cohort",
    "test_readme",
    "test_exporter_faults",
    "test_world",
    "test_golden",
    "test_bisect",
)

# as a shell leaves it to a job in the background, and the job to its children
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; Python's sort keeps the order of the others."""
    order = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.stem, len(LONG)))


@pytest.fixture(scope="session", autouse=True)
def _fitted_once() -> Iterator[None]:
    """Digits are brought to size once a process: hundreds of tests ask for the same 1,797, half a second
    each time.
    """
    seen: dict[tuple[bytes, int], np.ndarray] = {}

    def fitted(images: np.ndarray, size: int) -> np.ndarray:
        if images.shape != (1, 8, 8, 3):
            return fit_all(images, size)
        key = images.tobytes(), size
        if key not in seen:
            seen[key] = fit_all(images, size)
        return seen[key].copy()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recall, "fit_all", fitted)
        yield


@pytest.fixture(scope="session", autouse=True)
def _operators_read_once() -> Iterator[None]:
    """onnxscript reads the source of its 1,490 operators at every export, the same each time: a second."""
    from torch.onnx._internal.exporter import _registration

    apis = _registration.onnxscript_apis
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apis, "get_torchlib_ops", cache(apis.get_torchlib_ops))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_plots() -> Iterator[None]:
    """A training's two pictures take longer than most trainings here; tests marked ``plots`` have them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "draw", lambda *given: None)
        yield


@pytest.fixture(autouse=True)
def _plots(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("plots"):
        monkeypatch.setattr(plots, "draw", DRAW)


@pytest.fixture(scope="session", autouse=True)
def _proofs_in_this_process() -> Iterator[None]:
    """A fresh process costs ten seconds of imports; tests marked ``fresh_process`` have it all the same."""
    from export import pipeline, prove

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            pipeline,
            "in_fresh_process",
            lambda run, staged, data, locks: prove.write_reports(run, staged, data),
        )
        yield


@pytest.fixture(autouse=True)
def _proof_in_a_fresh_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("fresh_process"):
        from export import pipeline, prove

        monkeypatch.setattr(pipeline, "in_fresh_process", prove.in_fresh_process)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two resnet8 by lfmkd with CBAM on digits, six epochs; all targets as fp32 ONNX in its artifacts."""
    from export import export
    from training import train

    def make(runs: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(plots, "draw", DRAW)
            config = TrainConfig(epochs=6, option=(("attn", "cbam"),), precision="fp32")  # alike on any CPU
            run = train(config, name="tiny", runs=runs)
        export(ExportConfig(all=True), run)

    runs = tmp_path_factory.mktemp("tiny") / "runs"
    made_once("tiny", make, runs)
    return Run(runs / "tiny")


@pytest.fixture(scope="session")
def lf() -> Callable[..., Result]:
    """The command line in this process: ``lf("list", "methods")``."""

    def invoke(*words: object) -> Result:
        return CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)

    return invoke


@pytest.fixture
def coloured_npz(tmp_path: Path) -> Path:
    """Three classes that differ by colour: 90 training pictures of 16x16, 30 for testing."""
    return write_coloured(tmp_path / "coloured.npz")


def write_coloured(
    path: Path, size: int = 16, classes: int = 3, train: int = 90, test: int = 30, seed: int = 0
) -> Path:
    """Learnable pictures: noise around one colour per class."""
    random = np.random.default_rng(seed)
    colours = random.integers(40, 216, (classes, 3))
    arrays = {}
    for split, count in (("train", train), ("test", test)):
        labels = np.arange(count) % classes
        noise = random.integers(-40, 40, (count, size, size, 3))
        arrays[f"{split}_x"] = (colours[labels][:, None, None, :] + noise).clip(0, 255).astype(np.uint8)
        arrays[f"{split}_y"] = labels
    np.savez(path, classes=np.array([f"class {i}" for i in range(classes)]), **arrays)
    return path


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The fault suite's table: every planted fault, the stage that must name it, and what the gate said."""
    reports = [
        r
        for outcome in ("passed", "failed")
        for r in terminalreporter.stats.get(outcome, [])
        if r.when == "call"
    ]
    exporter = [value for report in reports for key, value in report.user_properties if key == "exporter"]
    if exporter:
        terminalreporter.section("faults of the exporter itself")
        for name, stage in exporter:
            terminalreporter.line(f"{name:<78} {stage or 'PUBLISHED'}")
        alone = sum(bool(stage) and stage != "origin" for _, stage in exporter)
        terminalreporter.line(f"{alone} of {len(exporter)} refused, without stage origin")
    rows = [tuple(value) for report in reports for key, value in report.user_properties if key == "fault"]
    if not rows:
        return
    terminalreporter.section("planted faults")
    for name, wanted, found in rows:
        said = (
            f"caught{f' at {found}' if found != wanted else ''}"
            if found in wanted.split(" or ")
            else f"MISSED: {found}"
        )
        terminalreporter.line(f"{name:<44} {wanted:<16} {said}")
    caught = sum(found in wanted.split(" or ") for _, wanted, found in rows)
    terminalreporter.line(f"{caught} of {len(rows)} planted faults caught at the right stage")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """PyTorch computes with one thread: layers split over threads may sum in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
