"""The parity gate: shipped bytes against the run's fp32 module, in a fresh process, stage by stage.

A stage is the name of what broke. All checks of a stage are made; after a stage with a failed check, later
stages are not tried. A stage that examines nothing says so. NaN passes nothing: every comparison is written
so that it is false for NaN.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from export.numbers.check import Check, Unexamined, shown
from export.parity.chain import chain as custody
from export.parity.gate import Gate
from export.parity.members import documents
from export.parity.reference import Reference, Tick
from lfdeploy.artifact import Artifact
from lfdeploy.backends import chosen
from lfdeploy.backends.base import Floats
from lfdeploy.run import Run


@dataclass(frozen=True)
class Report:
    """A verdict with its checks.

    ``reason`` is one sentence for anything but a pass; ``logits`` the subject's on the test pictures.

    ``members``: statistics of further outputs, by target. ``chain``: the steps of `export.parity.chain`,
    where the file could be run. ``not_examined``: what no check was made of, and why.
    """

    verdict: str
    reason: str
    subject: str
    checks: tuple[Check, ...]
    comparison: dict[str, Any] | None
    logits: Floats | None
    members: dict[str, Any] = field(default_factory=dict)
    chain: tuple[dict[str, Any], ...] = ()
    not_examined: tuple[Unexamined, ...] = ()

    def document(self) -> dict[str, Any]:
        """As it stands in a manifest."""
        return {
            "verdict": self.verdict, "reason": self.reason, "subject": self.subject,
            "checks": [asdict(check) for check in self.checks],
            "not_examined": [{"stage": one.stage, "reason": one.reason} for one in self.not_examined],
            "statistics": self.comparison, "chain": list(self.chain),
        } | ({"members": self.members} if self.members else {})  # fmt: skip


def judge(
    artifact: Artifact,
    run: Run,
    ref: Reference,
    device: str = "auto",
    tick: Tick = lambda count: None,
    asked: str = "auto",
) -> Report:
    """Every stage for one artifact on this machine; an engine that cannot run here is judged by its
    source ONNX.
    """
    with tempfile.TemporaryDirectory() as folder:
        return _judged(Gate(artifact, run, ref, device, chosen(artifact.manifest, asked), tick, Path(folder)))


def _judged(gate: Gate) -> Report:
    checks: list[Check] = []
    unexamined: list[Unexamined] = []
    verdict, reason = ("unverified", gate.hindrance) if gate.hindrance else ("pass", "")
    for stage, make in gate.stages().items():
        made = 0
        try:
            for one in make():
                made += 1
                if isinstance(one, Check):
                    checks.append(one)
                elif one not in unexamined:  # every output of one file says the same
                    unexamined.append(one)
        # whatever a broken file provokes in a parser or a runtime is a finding about it
        except Exception as error:
            text = (str(error).splitlines() or [type(error).__name__])[0][:300]
            checks.append(Check(stage, "can be examined", text, "no error", False))
        if not made:
            unexamined.append(Unexamined(stage, "no check was made", decides=True))
        failed = [check for check in checks if not check.passed]
        if failed:
            worst = failed[0]
            verdict = "fail"
            reason = f"stage {worst.stage}: {worst.name} is {shown(worst.value)}, bound {shown(worst.bound)}"
            break
    missing = [one for one in unexamined if one.decides]
    if verdict == "pass" and missing:
        verdict, reason = "unverified", f"stage {missing[0].stage} was not examined: {missing[0].reason}"
    return _report(gate, verdict, reason, checks, unexamined)


def _report(
    gate: Gate, verdict: str, reason: str, checks: list[Check], unexamined: list[Unexamined]
) -> Report:
    """What was found, with the chain of custody where the file could be run."""
    main, parts = gate.parts[0], documents(gate.parts)
    examined = tuple(checks), main.comparison[0].document() if main.comparison else None
    if not main.answers:
        return Report(verdict, reason, gate.said, *examined, None, parts, (), tuple(unexamined))
    try:
        links = custody(
            gate.artifact, gate.ref, gate.session, gate.evidence, same_data=gate.same_data,
            runs_file=gate.subject == gate.artifact.file, hindrance=gate.hindrance,
        )  # fmt: skip
    except Exception:
        if verdict != "fail":
            raise
        links = []  # what broke a stage breaks the chain too
    return Report(
        verdict, reason, gate.said, *examined, main.answers[0], parts, tuple(links), tuple(unexamined)
    )
