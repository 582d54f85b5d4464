"""One artifact under examination: what is opened and parsed once, and the stages that look at it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from export.independent.evidence import READERS, Evidence, arithmetic_checks, graph_checks
from export.numbers.check import Check, Unexamined
from export.parity.accuracy import accuracy, agreement, anchor, told
from export.parity.contract import (
    Outputs,
    dtype_checks,
    file_checks,
    input_checks,
    label_checks,
    name_checks,
    shape_checks,
    word_checks,
)
from export.parity.heatmap import heat_outputs
from export.parity.members import Once, Part, each, main_checks, parts_of
from export.parity.origin import calibration_checks, format_of, origin_checks, other_versions, source_again
from export.parity.probabilities import temperature_checks
from export.parity.recorded import recorded_checks
from export.parity.reference import Reference, Tick, training_pictures
from export.parity.values import finite_checks, value_checks
from export.parity.widen import widen
from lfdeploy.artifact import Artifact, outputs_of
from lfdeploy.backends import BACKENDS, Backend, Session, Source
from lfdeploy.backends.facts import Facts
from lfdeploy.confidence import KEY
from lfdeploy.devices import pick
from lfdeploy.errors import LfdeployError
from lfdeploy.models.explain import explains
from lfdeploy.models.multi_output import member_outputs
from lfdeploy.recorded_splits import Record
from lfdeploy.run import Run

NO_BF16 = "onnxruntime's CPU provider has no bf16; its numbers are those of the same file widened to fp32"
Stage = Callable[[], Iterator[Check | Unexamined]]


@dataclass(frozen=True)
class Gate:
    """One artifact under examination, with what is opened and parsed once for all stages; ``folder`` is for
    its own files.
    """

    artifact: Artifact
    run: Run
    ref: Reference
    device: str
    backend: str
    tick: Tick
    folder: Path

    @property
    def manifest(self) -> dict[str, Any]:
        """The artifact's."""
        return self.artifact.manifest

    @property
    def precision(self) -> str:
        """Of the file."""
        return str(self.manifest["precision"])

    @cached_property
    def source(self) -> Path:
        """The ONNX file that an engine was built from: the staged one, or made again, if that gives the bytes
        that it was built from.
        """
        staged, again = self.artifact.path / "source.onnx", self.folder / "source.onnx"
        engine = self.manifest.get("engine")
        if (
            staged.exists()
            or not isinstance(engine, dict)
            or (self.precision == "int8" and not self.same_training)
        ):
            return staged
        try:
            again.write_bytes(source_again(self.manifest, self.ref.data, self.run))
        except (LookupError, TypeError, ValueError, LfdeployError):
            return staged  # a manifest that says what no run can give: stage file has it
        return again if again.stat().st_size else staged

    @cached_property
    def cannot_run(self) -> str:
        """Why the published file cannot be executed here, or an empty string."""
        return BACKENDS[self.backend].cannot_run()

    @cached_property
    def subject(self) -> Path:
        """The file that is examined: the published one, or its source where that alone can be run."""
        return self.source if self.cannot_run and self.source.exists() else self.artifact.file

    @property
    def executor(self) -> str:
        """The backend that runs the subject."""
        return self.backend if self.subject == self.artifact.file else "onnxruntime"

    @cached_property
    def widened(self) -> bool:
        """Whether a bf16 file is run as a copy in fp32."""
        by_onnxruntime = self.precision == "bf16" and self.executor == "onnxruntime"
        return by_onnxruntime and pick(self.device, self.executor) == "cpu"

    @property
    def hindrance(self) -> str:
        """Why the verdict cannot be more than unverified, whatever is found."""
        return self.cannot_run or (NO_BF16 if self.widened else "")

    @property
    def runnable(self) -> bool:
        """Whether anything can be executed here."""
        return bool(self.widened or not (self.cannot_run and self.subject == self.artifact.file))

    @property
    def said(self) -> str:
        """What was executed, in words."""
        published = self.subject == self.artifact.file
        if self.widened:
            which = "published" if published else "source"
            return f"onnxruntime on a copy of the {which} file, widened from bf16 to fp32"
        return (
            f"{self.executor} on the published file"
            if published
            else "onnxruntime on the ONNX file it was built from"
        )

    @cached_property
    def parts(self) -> list[Part]:
        """The file's outputs with their references."""
        return parts_of(self.ref)

    @cached_property
    def same_data(self) -> bool:
        """Whether the pictures at hand are the run's."""
        return bool(self.ref.data.fingerprint == self.run.spec["data_fingerprint"])

    @cached_property
    def record(self) -> Record | None:
        """Which pictures the run was begun with."""
        return self.run.record()

    @property
    def own_training(self) -> bool:
        """Whether the training pictures at hand are of the run: by its record they always are."""
        return len(self.ref.data.train) > 0 and (self.same_data or self.record is not None)

    @cached_property
    def same_training(self) -> bool:
        """Whether these are the run's pictures, train and val whole, whatever became of test."""
        if self.same_data or self.record is None or self.ref.data.whose is not None:
            return self.same_data
        begun = self.record.splits
        return all(self.ref.data.split(name).digest == begun[name].digest for name in ("train", "val"))

    @cached_property
    def session(self) -> Session:
        """The subject, opened once."""
        file = widen(self.subject, self.folder / "widened.onnx") if self.widened else self.subject
        manifest = self.manifest | {"precision": "fp32"} if self.widened else self.manifest
        session = BACKENDS[self.executor].open(Source(file, manifest, self.run), self.device)
        return Once(session) if self.parts[1:] else session

    @cached_property
    def row(self) -> Backend:
        """The row whose format the subject has."""
        return BACKENDS[format_of(self.subject, self.manifest)]

    @cached_property
    def facts(self) -> Facts | None:
        """What the subject says of itself; None where nothing here can read it."""
        if self.row.facts is None or not self.runnable:
            return None
        return self.row.facts(self.subject)

    @cached_property
    def readable(self) -> Path | None:
        """The file whose graph and numbers can be read: the subject, or the source of an engine while it
        is there.
        """
        files = (self.source,) if not self.runnable else (self.subject, self.source)
        return next((file for file in files if file.suffix in READERS and file.exists()), None)

    @cached_property
    def evidence(self) -> Evidence | None:
        """The readable file against the run's numbers."""
        if self.readable is None:
            return None
        claim = (
            self.manifest["calibration"] if self.precision == "int8" else {"digests": [], "calibrator": ""}
        )
        own = self.own_training and self.precision == "int8"
        training = training_pictures(self.ref.data, set(claim["digests"])) if own else self.ref.probes[:0]
        truth = self.ref.truth(explains(self.manifest))
        return Evidence(self.readable, self.precision, truth, training, str(claim["calibrator"]))

    def outputs(self) -> Outputs:
        """The outputs that the manifest must name, by the run."""
        members = member_outputs(str(self.manifest["target"]), self.run.spec)
        return outputs_of(len(self.manifest["labels"])) + members + heat_outputs(self.run, self.manifest)

    def stages(self) -> dict[str, Stage]:
        """What is examined, in order."""
        manifest = self.manifest
        stages: dict[str, Stage] = {
            "file": self._file,
            "input": lambda: input_checks(self.artifact, self.run, self.facts),
            "reference": lambda: each(self.parts, lambda part: recorded_checks(part.ref)),
            "names": self._names,
            "shapes": lambda: self._of_facts(
                "shapes", lambda facts: shape_checks(facts, manifest, self.outputs())
            ),
            "dtypes": lambda: self._of_facts("dtypes", lambda facts: dtype_checks(facts, self.outputs())),
        }
        if KEY in manifest:
            stages["temperature"] = lambda: temperature_checks(manifest, self.parts[0].ref, self.same_data)
        if self.precision == "int8":
            stages["calibration"] = lambda: calibration_checks(manifest, self.ref.data, self.same_training)
        if self.runnable:
            stages["finite"] = lambda: each(
                self.parts, lambda part: finite_checks(part.of(self.session), self.artifact, part.ref)
            )
            stages["values"] = lambda: value_checks(
                self.session, self.artifact, self.parts, self.tick, self.evidence
            )
        stages["labels"] = self._labels
        if self.runnable:
            stages["accuracy"] = self._accuracy
        return stages | {
            "graph": lambda: self._of_evidence("graph", graph_checks),
            "arithmetic": lambda: self._of_evidence("arithmetic", arithmetic_checks),
            "origin": self._origin,
        }

    def _file(self) -> Iterator[Check | Unexamined]:
        for check in file_checks(self.artifact, self.run):
            yield check
            if not check.passed and check.name in ("sha256", "onnx.checker, full"):
                return
        yield from self._of_facts("file", lambda facts: word_checks(self.manifest, facts))

    def _of_facts(
        self, stage: str, checks: Callable[[Facts], Iterator[Check] | Iterator[Check | Unexamined]]
    ) -> Iterator[Check | Unexamined]:
        """Checks of what the file says; where nobody can read it, the reason why they are not made."""
        if self.facts is None:
            unread = f"nothing here reads what a {self.artifact.file.name} says of itself"
            yield Unexamined(stage, self.cannot_run or self.row.opaque or unread, decides=True)
        else:
            yield from checks(self.facts)

    def _names(self) -> Iterator[Check | Unexamined]:
        yield from main_checks(self.manifest, self.run)
        yield from self._of_facts("names", lambda facts: name_checks(facts, self.outputs()))

    def _labels(self) -> Iterator[Check | Unexamined]:
        yield from label_checks(self.artifact, self.run, self.facts)
        if self.runnable:
            yield from each(self.parts, lambda part: agreement(part.comparison, part.bounds))

    def _accuracy(self) -> Iterator[Check]:
        precision, main = self.precision, self.parts[0]
        return chain(
            each(self.parts, lambda part: anchor(part.ref, self.same_data)),
            each(self.parts, lambda part: accuracy(part.comparison, precision)),
            told(self.manifest, main.comparison[0], precision, self.same_data),
        )

    def _unread(self, stage: str) -> Unexamined:
        reason = self.row.opaque or f"nothing here reads the numbers of {self.artifact.file.name}"
        return Unexamined(stage, reason, decides=self.readable is None)

    def _of_evidence(
        self, stage: str, checks: Callable[[Evidence], Iterator[Check | Unexamined]]
    ) -> Iterator[Check | Unexamined]:
        """Checks of the file's graph and numbers; where nobody can read them, the reason."""
        if self.evidence is None:
            yield self._unread(stage)
        else:
            yield from checks(self.evidence)

    def _origin(self) -> Iterator[Check | Unexamined]:
        file, others = self.readable, other_versions(self.manifest)
        left = "the file is not made again for comparison"
        if file is None or BACKENDS[format_of(file, self.manifest)].difference is None:
            yield self._unread("origin")
        elif others:
            yield Unexamined("origin", f"{left}: other versions here of {', '.join(others)}")
        elif self.precision == "int8" and not self.same_training:
            yield Unexamined("origin", f"{left}: these are other pictures than the run's")
        else:
            yield from origin_checks(file, self.manifest, self.ref.data, self.run)
