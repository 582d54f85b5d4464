"""The gate: every planted fault exits 3 with its stage named; untouched neighbours exit 0."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import Result

from lfdeploy.run import Run

pytestmark = pytest.mark.usefixtures("one_reference")


def beside(name: str, file: str) -> ModuleType:
    """A module that lies beside this one."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(file))
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made
    spec.loader.exec_module(made)
    return made


mutants = beside("tests_export_mutants", "mutants.py")
int8_mutants = beside("tests_export_int8_mutants", "int8_mutants.py")
quiet = beside("tests_export_quiet_mutants", "quiet_mutants.py")


def named_stage(result: Result) -> str:
    found = re.search(r"Error: .*?stage (\w+):", result.stderr)
    return found.group(1) if found else f"none in {result.stderr!r}"


def some(names: Iterable[str], step: int) -> list[Any]:
    """Each as a parameter; one in ``step`` in the fast tests, the others in the slow ones."""
    return [
        pytest.param(name, marks=pytest.mark.slow if number % step else ())
        for number, name in enumerate(names)
    ]


Note = Callable[[str, object], None]


@pytest.mark.parametrize("name", some(mutants.MUTANTS, 5))
def test_fault_is_caught(
    name: str, tiny_run: Run, copied: Callable[[str], Path], lf: Callable[..., Result], record_property: Note
) -> None:
    stage, mutate = mutants.MUTANTS[name]
    subject = mutants.Subject(copied("peer0-onnx-fp32"), tiny_run)
    mutate(subject)
    result = lf("verify", subject.path, "--run", tiny_run.path)
    record_property(
        "fault", (name, stage, named_stage(result) if result.exit_code == 3 else f"exit {result.exit_code}")
    )
    assert (result.exit_code, named_stage(result)) == (3, stage), result.stderr


@pytest.mark.parametrize("name", some(mutants.HALF_MUTANTS, 5))
def test_fault_in_fp16_is_caught(
    name: str,
    tiny_run: Run,
    half_artifact: Path,
    copied: Callable[[str], Path],
    lf: Callable[..., Result],
    record_property: Note,
) -> None:
    stage, mutate = mutants.HALF_MUTANTS[name]
    subject = mutants.Subject(copied(half_artifact.name), tiny_run)
    mutate(subject)
    result = lf("verify", subject.path, "--run", tiny_run.path)
    record_property(
        "fault", (name, stage, named_stage(result) if result.exit_code == 3 else f"exit {result.exit_code}")
    )
    assert (result.exit_code, named_stage(result)) == (3, stage), result.stderr


@pytest.mark.parametrize("name", some(quiet.QUIET_MUTANTS, 5))
def test_quiet_fault_is_caught(
    name: str,
    tiny_run: Run,
    half_artifact: Path,
    copied: Callable[[str], Path],
    lf: Callable[..., Result],
    record_property: Note,
) -> None:
    artifact, stage, mutate = quiet.QUIET_MUTANTS[name]
    subject = mutants.Subject(copied(artifact), tiny_run)
    mutate(subject)
    result = lf("verify", subject.path, "--run", tiny_run.path)
    record_property(
        "fault", (name, stage, named_stage(result) if result.exit_code == 3 else f"exit {result.exit_code}")
    )
    assert result.exit_code == 3, result.stderr
    assert named_stage(result) in stage.split(" or "), result.stderr


INT8 = int8_mutants.INT8_MUTANTS | quiet.QUIET_MUTANTS_IN_INT8


@pytest.mark.slow  # three seconds each: every one is made again for stage origin
@pytest.mark.parametrize("name", list(INT8))
def test_fault_in_int8_is_caught(
    name: str,
    tiny_run: Run,
    int8_artifact: Path,
    copied: Callable[[str], Path],
    lf: Callable[..., Result],
    record_property: Note,
) -> None:
    stage, mutate = INT8[name]
    subject = mutants.Subject(copied(int8_artifact.name), tiny_run)
    mutate(subject)
    result = lf("verify", subject.path, "--run", tiny_run.path)
    record_property(
        "fault", (name, stage, named_stage(result) if result.exit_code == 3 else f"exit {result.exit_code}")
    )
    assert result.exit_code == 3, result.stderr
    assert named_stage(result) in stage.split(" or "), result.stderr


UNTOUCHED = [
    "peer0-onnx-fp32",
    "peer1-onnx-fp32",
    "fused-onnx-fp32",
    "ensemble-onnx-fp32",
    "fused-onnx-fp16",
    "peer0-onnx-int8",
]


@pytest.mark.parametrize("name", UNTOUCHED)
def test_untouched_passes(
    name: str,
    tiny_run: Run,
    half_artifact: Path,
    int8_artifact: Path,
    copied: Callable[[str], Path],
    lf: Callable[..., Result],
) -> None:
    path = copied(name)
    result = lf("verify", path, "--run", tiny_run.path)
    assert result.exit_code == 0, result.stderr
    # read, sealed and written again without a fault: the harness itself breaks nothing
    subject = mutants.Subject(path, tiny_run)
    subject.graph(lambda model: None)
    assert lf("verify", path, "--run", tiny_run.path).exit_code == 0
