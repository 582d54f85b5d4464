"""Teachers that were trained before, by the name of a run or of an artifact."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lfdeploy.artifact import resolve as resolve_artifact
from lfdeploy.artifact import run_of
from lfdeploy.console import say
from lfdeploy.errors import LfdeployError, ParityError, UsageError
from lfdeploy.models.targets import NETWORK, layout_of, top1_of
from lfdeploy.run import Run
from lfdeploy.runs import resolve as resolve_run
from training.parts import GivenTeacher

if TYPE_CHECKING:
    from lfdeploy.data import Data


def check_teachers(method: str, taught: bool, names: str | None) -> None:
    """Raise `UsageError` for a method without the teacher that it needs, or with one
    that it has no use for.
    """
    if taught and not names:
        raise UsageError(
            f"Method {method} is taught by networks that were trained before: add --teacher NAME, of a run "
            "or an artifact."
        )
    if names and not taught:
        raise UsageError(
            f"--teacher {names} has no meaning for method {method}, which is not taught by trained networks. "
            "Try --method kd."
        )


def names_of(names: str | None) -> list[str]:
    """What --teacher names, in order."""
    return [name for name in (names or "").split(",") if name]


def teachers_of(
    names: str | None, runs: Path, data: Data, mean: Sequence[float], std: Sequence[float]
) -> list[GivenTeacher]:
    """The teachers, in eval mode, for pictures that are normalised by ``mean`` and ``std``; parts ``teacher``
    or ``teacher0``..
    """
    each = names_of(names)
    here = torch.tensor(mean), torch.tensor(std)
    parts = []
    for number, name in enumerate(each):
        run, target = find(name, runs)
        spec = run.spec
        if list(spec["classes"]) != list(data.classes):
            raise LfdeployError(
                f"Teacher {name} tells other classes apart than these: "
                f"{_difference(spec['classes'], data.classes)}."
            )
        if int(spec["image_size"]) != data.image_size:
            size = spec["image_size"]
            raise LfdeployError(
                f"Teacher {name} sees pictures of {size} px, these are {data.image_size} px: add "
                f"--image-size {size}."
            )
        say(
            f"Teacher: {target} of run {run.name}, {' + '.join(layout_of(spec).archs(target))}, top-1 "
            f"{_top1(run, target)}"
        )
        network = run.classifier(target).network
        own = torch.tensor(spec["mean"]), torch.tensor(spec["std"])
        parts.append(GivenTeacher("teacher" if len(each) == 1 else f"teacher{number}", network, own, here))
    return parts


def find(name: str, runs: Path) -> tuple[Run, str]:
    """The run and the target that a name means: an artifact's target, or a run's best single network
    by validation.
    """
    if any((place / "spec.json").exists() for place in (Path(name), runs / name)):
        run = resolve_run(name, str(runs)).finished()
        return run, best_network(run)
    try:
        artifact = resolve_artifact(name, str(runs))
    except ParityError:  # it is there, and damaged
        raise
    except LfdeployError:
        raise LfdeployError(
            f"--teacher '{name}' is neither a run nor an artifact in {runs}. See: lfdeploy list runs"
        ) from None
    return run_of(artifact, None, str(runs)).finished(), str(artifact.manifest["target"])


def best_network(run: Run) -> str:
    """The single network that was best on val, or on test where there was no val."""
    summary = run.read("summary.json")
    top1 = top1_of(summary["val"] or summary["test"])
    networks = [name for name, row in layout_of(run.spec).targets.items() if row.kind == NETWORK]
    return max(networks, key=lambda name: top1[name])


def _top1(run: Run, target: str) -> str:
    return f"{top1_of(run.read('summary.json')['test'])[target]:.1f} % on its test pictures"


def _difference(theirs: Sequence[str], ours: Sequence[str]) -> str:
    lacking, more = [c for c in ours if c not in theirs], [c for c in theirs if c not in ours]
    if lacking or more:
        return "; ".join(
            f"{what} {', '.join(names[:3])}"
            for what, names in (("it lacks", lacking), ("it also has", more))
            if names
        )
    return "they are in another order"
