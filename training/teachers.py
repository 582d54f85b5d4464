"""Teachers that were trained before, by the name of a run or of an artifact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lfdeploy.artifact import Artifact, check_resize, has_run, run_of
from lfdeploy.artifact import resolve as resolve_artifact
from lfdeploy.backends import BACKENDS, Source, chosen
from lfdeploy.console import say
from lfdeploy.errors import LfdeployError, ParityError, UsageError
from lfdeploy.labels import some
from lfdeploy.models.targets import NETWORK, layout_of, top1_of
from lfdeploy.run import Run
from lfdeploy.runs import resolve as resolve_run
from training.parts import GivenTeacher, OpenedFile

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


@dataclass(frozen=True)
class Named:
    """What a name of --teacher means: a run and one of its targets, or an artifact whose run is not here."""

    name: str
    run: Run | None
    target: str
    artifact: Artifact | None = None

    @property
    def classes(self) -> list[str]:
        """The classes that it tells apart."""
        return list(self.run.spec["classes"] if self.run else self._manifest["labels"])

    @property
    def size(self) -> int:
        """The side of its pictures."""
        return int(self.run.spec["image_size"] if self.run else self._manifest["input"]["height"])

    @property
    def _manifest(self) -> dict[str, Any]:
        assert self.artifact is not None
        return self.artifact.manifest


def teachers_of(
    found: Sequence[Named], data: Data, mean: Sequence[float], std: Sequence[float]
) -> list[GivenTeacher]:
    """The teachers, in eval mode, for pictures that are normalised by ``mean`` and ``std``; parts ``teacher``
    or ``teacher0``..
    """
    here = torch.tensor(mean), torch.tensor(std)
    parts = []
    for number, each in enumerate(found):
        if each.classes != list(data.classes):
            raise LfdeployError(
                f"Teacher {each.name} tells other classes apart than these: "
                f"{_difference(each.classes, data.classes)}."
            )
        if each.size != data.image_size:
            raise LfdeployError(
                f"Teacher {each.name} sees pictures of {each.size} px, these are {data.image_size} px: add "
                f"--image-size {each.size}."
            )
        network, own = _opened(each)
        parts.append(GivenTeacher("teacher" if len(found) == 1 else f"teacher{number}", network, own, here))
    return parts


def _opened(named: Named) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """A teacher's network, with the mean and deviation of the pictures that it reads."""
    if named.run is None:
        assert named.artifact is not None
        name = chosen(named.artifact.manifest, "auto")
        session = BACKENDS[name].open(Source(named.artifact.file, named.artifact.manifest), "auto")
        say(f"Teacher: {named.artifact.name} alone, with {name}, since its run is not here: it gives logits.")
        file = OpenedFile(session, int(named.artifact.manifest["batch"]["max"]))
        return file, (torch.zeros(3), torch.ones(3))
    spec = named.run.spec
    networks = " + ".join(layout_of(spec).archs(named.target))
    top1 = f"{top1_of(named.run.read('summary.json')['test'])[named.target]:.1f} % on its test pictures"
    say(f"Teacher: {named.target} of run {named.run.name}, {networks}, top-1 {top1}")
    return named.run.classifier(named.target).network, (torch.tensor(spec["mean"]), torch.tensor(spec["std"]))


def find(name: str, runs: Path, flag: str = "--teacher") -> Named:
    """What a name means: an artifact's target, or a run's best single network by validation."""
    if any((place / "spec.json").exists() for place in (Path(name), runs / name)):
        run = resolve_run(name, str(runs)).finished()
        return Named(name, run, best_network(run))
    try:
        artifact = resolve_artifact(name, str(runs))
    except ParityError:  # it is there, and damaged
        raise
    except LfdeployError:
        raise LfdeployError(
            f"{flag} '{name}' is neither a run nor an artifact in {runs}. See: lfdeploy list runs"
        ) from None
    target = str(artifact.manifest["target"])
    if not has_run(artifact, str(runs)):
        artifact.check_file()
        check_resize(artifact)
        return Named(name, None, target, artifact)
    return Named(name, run_of(artifact, None, str(runs)).finished(), target)


def best_network(run: Run) -> str:
    """The single network that was best on val, or on test where there was no val."""
    summary = run.read("summary.json")
    top1 = top1_of(summary["val"] or summary["test"])
    networks = [name for name, row in layout_of(run.spec).targets.items() if row.kind == NETWORK]
    return max(networks, key=lambda name: top1[name])


def _difference(theirs: Sequence[str], ours: Sequence[str]) -> str:
    lacking, more = [c for c in ours if c not in theirs], [c for c in theirs if c not in ours]
    if lacking or more:
        return "; ".join(
            f"{what} {', '.join(names[:3])}"
            for what, names in (("it lacks", lacking), ("it also has", more))
            if names
        )
    return f"they are in another order; the teacher has {some(theirs, 5)}"
