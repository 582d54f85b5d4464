"""The gate: every planted fault exits 3 with its stage named; untouched neighbours exit 0."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import int8_mutants
import mutants
import pytest
import quiet_mutants as quiet
from click.testing import Result
from marks import some

from lfdeploy.run import Run

pytestmark = pytest.mark.usefixtures("one_reference")


def named_stage(result: Result) -> str:
    found = re.search(r"Error: .*?stage (\w+):", result.stderr)
    return found.group(1) if found else f"none in {result.stderr!r}"


SINGLE, HALF, INT8 = "peer0-onnx-fp32", "fused-onnx-fp16", "peer0-onnx-int8"
Fault = tuple[str, str, Callable[[mutants.Subject], None]]
#: the artifact that is broken, the stages of which one must be named, and how to break it
FAULTS: dict[str, Fault] = {name: (SINGLE, *row) for name, row in mutants.MUTANTS.items()}
FAULTS |= {name: (HALF, *row) for name, row in mutants.HALF_MUTANTS.items()}
FAULTS |= quiet.QUIET_MUTANTS
#: three seconds each: every one is made again for stage origin
FAULTS_OF_INT8: dict[str, Fault] = {
    name: (INT8, *row) for name, row in (int8_mutants.INT8_MUTANTS | quiet.QUIET_MUTANTS_IN_INT8).items()
}
#: one in five is in the fast tests, one in five in the slow ones
NAMES = [
    pytest.param(
        name,
        marks=()
        if name in FAULTS and number % 5 == 0
        else [pytest.mark.slow if number % 5 == 3 else pytest.mark.wide],
    )
    for number, name in enumerate([*FAULTS, *FAULTS_OF_INT8])
]


@pytest.mark.parametrize("name", NAMES)
def test_fault_is_caught(
    name: str,
    tiny_run: Run,
    copied: Callable[[str], Path],
    lf: Callable[..., Result],
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> None:
    artifact, stages, mutate = (FAULTS | FAULTS_OF_INT8)[name]
    if artifact != SINGLE:  # made when the first test asks for it
        request.getfixturevalue("half_artifact" if artifact == HALF else "int8_artifact")
    subject = mutants.Subject(copied(artifact), tiny_run)
    mutate(subject)
    result = lf("verify", subject.path, "--run", tiny_run.path)
    named = named_stage(result)
    record_property("fault", (name, stages, named if result.exit_code == 3 else f"exit {result.exit_code}"))
    assert result.exit_code == 3, result.stderr
    assert named in stages.split(" or "), result.stderr


UNTOUCHED = [
    "peer0-onnx-fp32",
    "peer1-onnx-fp32",
    "fused-onnx-fp32",
    "ensemble-onnx-fp32",
    "fused-onnx-fp16",
    "peer0-onnx-int8",
]


@pytest.mark.parametrize("name", some(UNTOUCHED, 2, slow=1))
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
