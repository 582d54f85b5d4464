from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from made import made_once

from export import export, prove
from export.parity.reference import Reference, Tick, reference
from lfdeploy.config import ExportConfig
from lfdeploy.data import Data, Split
from lfdeploy.run import Run, sha256


def exported(run: Run, *configs: ExportConfig) -> list[Path]:
    """What these configs export of the tiny run, in their order, among its artifacts."""
    words = repr([asdict(config) for config in configs])
    name = "artifacts-" + hashlib.sha256(words.encode()).hexdigest()[:8]

    def make(place: Path) -> None:
        made = [artifact for config in configs for artifact in export(config, run)]
        for number, artifact in enumerate(made):
            shutil.copytree(artifact.path, place / str(number) / artifact.path.name)

    copies = run.path / f".{name}"
    made_once(name, make, copies)
    paths = []
    for number in range(len(list(copies.iterdir()))):
        (copy,) = (copies / str(number)).iterdir()
        paths.append(run.artifacts / copy.name)
        if not paths[-1].exists():
            copy.rename(paths[-1])
    shutil.rmtree(copies)
    return paths


@pytest.fixture(scope="session")
def half_artifact(tiny_run: Run) -> Path:
    """The fused classifier of the tiny run as fp16 ONNX."""
    return exported(tiny_run, ExportConfig(fused=True, precision="fp16"))[0]


@pytest.fixture(scope="session")
def int8_artifact(tiny_run: Run) -> Path:
    """The first peer of the tiny run as int8 ONNX."""
    return exported(tiny_run, ExportConfig(peer=0, precision="int8"))[0]


@pytest.fixture
def copied(tiny_run: Run, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of one artifact that a test may break, far from its run."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(tiny_run.artifacts / name, tmp_path / "copies" / name))

    return copy


@pytest.fixture(scope="session")
def elsewhere(tiny_run: Run) -> list[Path]:
    """The first peer of the tiny run in the formats that are neither ONNX nor an engine."""
    wanted = ("openvino", "fp32,fp16,int8"), ("torch", "fp32")
    return exported(tiny_run, *(ExportConfig(peer=0, format=f, precision=p) for f, p in wanted))


@pytest.fixture(scope="module")
def one_reference() -> Iterator[None]:
    """The module's answers are computed once for all verdicts on the same run, target and pictures, as one
    proof of several files does.

    For modules whose tests change artifacts and runs, not the code that judges them.
    """
    known: dict[tuple[object, ...], Reference] = {}

    def remembered(
        run: Run, target: str, split: Split, data: Data, tick: Tick = lambda count: None
    ) -> Reference:
        documents = tuple((run.path / name).read_bytes() for name in ("spec.json", "summary.json"))
        key = (
            run.path,
            sha256(run.weights),
            documents,
            target,
            split.digests.tobytes(),
            data.fingerprint,
            data.whose,
        )
        if key not in known:
            known[key] = reference(run, target, split, data, tick)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prove, "reference", remembered)
        yield
