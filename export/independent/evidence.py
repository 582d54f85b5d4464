"""What can be known of one file without its maker: its graph, its numbers and its ranges, against the run's
own weights.

Three facts together say that a file is right. Without any rounding its graph answers as the module does, to
fp32's last digits. Each of its numbers is the run's, but for the rounding of its format. Its activations are
rounded as the run's pictures need. What rounding then does to the answers is predicted by rounding the same
graph anew, and bounds them.

Nothing here imports the exporter, the quantiser or its calibration; a test holds that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from export.independent.activations import Reach, own_numbers, own_ranges, range_checks, reaches
from export.independent.expected_weights import Array, Exact, exact_tensors
from export.independent.float_ir import IrFile
from export.independent.float_onnx import Answers, OnnxFile, Range
from export.independent.float_program import ProgramFile
from export.independent.halves import rounded
from export.independent.weights import STAGE, Match, matched, numbers
from export.numbers.check import Check, Unexamined, at_most, equal
from export.numbers.statistics import Comparison, compare

READERS: dict[str, type[OnnxFile] | type[IrFile] | type[ProgramFile]] = {
    ".onnx": OnnxFile,
    ".xml": IrFile,
    ".pt2": ProgramFile,
}
FLOAT_BOUND = 2e-5  # of the logits' scale: what fp32 leaves between two ways to compute the same network
GRAPH_PICTURES, RANGE_PICTURES, NOISE_PICTURES, ENOUGH_PICTURES = 32, 64, 256, 64
Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Truth:
    """The run's side: its module with its exact numbers, made once for all files of a target.

    ``pictures`` are test pictures with the module's logits by output, ``probes`` likewise.
    """

    module: nn.Module
    exact: Mapping[str, Exact]
    pictures: Pixels
    logits: Mapping[str, Floats]
    probes: Pixels
    probe_logits: Mapping[str, Floats]

    @property
    def cap(self) -> float | None:
        """Where the network's ReLUs end; None where they do not."""
        return 6.0 if any(isinstance(module, nn.ReLU6) for module in self.module.modules()) else None


def truth_of(module: nn.Module, named: nn.Module, spec: Mapping[str, Any], **pictures: Any) -> Truth:
    """`Truth` of a `Classifier`; ``named`` is the same module under the names that the file has them."""
    return Truth(module, exact_tensors(named, spec, int(spec["image_size"])), **pictures)


@dataclass(frozen=True)
class Evidence:
    """One file against the truth. Everything is computed when it is first asked for, and once.

    ``training``: pictures of the run for the ranges of an int8 file, that calibrated nothing where there are
    enough; may be empty. ``rule``: what its manifest says that it was calibrated by.
    """

    file: Path
    precision: str
    truth: Truth
    training: Pixels
    rule: str = ""

    @cached_property
    def opened(self) -> OnnxFile | IrFile | ProgramFile:
        """The file, parsed."""
        return READERS[self.file.suffix](self.file)

    @cached_property
    def _matched(self) -> tuple[dict[str, Match], list[str]]:
        return matched(self.opened.constants, self.truth.exact)

    @property
    def matches(self) -> dict[str, Match]:
        """The file's numbers with the run's."""
        return self._matched[0]

    @property
    def numbers(self) -> dict[str, Array]:
        """The run's numbers under the file's names."""
        return {name: match.exact.value for name, match in self.matches.items()}

    @cached_property
    def unrounded(self) -> Answers:
        """The file's graph with the run's numbers, unrounded; its answers hold the rounded tensors too."""
        assert not isinstance(self.opened, ProgramFile)
        return self.opened.unrounded(self.numbers, self.truth.cap, (), list(self.truth.logits))

    @cached_property
    def halved(self) -> Answers:
        """The file's graph with the run's numbers rounded to the file's half precision, computed in fp32."""
        assert not isinstance(self.opened, ProgramFile)
        prologue = [name for name, match in self.matches.items() if match.source in ("scale", "shift")]
        weights = rounded(self.precision, self.numbers, prologue)
        return self.opened.unrounded(weights, self.truth.cap, (), list(self.truth.logits))

    @cached_property
    def reach(self) -> dict[str, Reach]:
        """How far each rounded activation goes on the run's pictures, or on those that are judged where there
        are no others.
        """
        assert not isinstance(self.opened, ProgramFile)
        pictures = self.training if len(self.training) else self.truth.pictures[:RANGE_PICTURES]
        answers = self.opened.unrounded(self.numbers, self.truth.cap, self.opened.ranges, ["logits"])
        size = batch_of(pictures)
        return reaches(
            answers, self.opened.ranges, [pictures[i : i + size] for i in range(0, len(pictures), size)]
        )

    @cached_property
    def predicted(self) -> dict[str, Comparison]:
        """What int8 by its nature does to each output of the graph: rounded anew, with ranges and levels of
        our own.

        Measured on what is judged, and on the run's training pictures too where that is little.
        """
        ranges = own_ranges(self.opened.ranges, self.reach)
        more = self.training[: max(0, ENOUGH_PICTURES - len(self.truth.pictures))]
        pictures = np.concatenate([self.truth.pictures[:NOISE_PICTURES], more])
        before, after = run(self.unrounded, pictures), run(self._rounded(ranges), pictures)
        return {
            output: compare(before[output], after[output], before[output].argmax(1))
            for output in self.truth.logits
        }

    def _rounded(self, ranges: Mapping[str, Range]) -> Answers:
        assert not isinstance(self.opened, ProgramFile)
        return self.opened.rounded(own_numbers(self.matches), ranges, list(self.truth.logits))

    def within_ranges(self, pictures: Pixels) -> tuple[dict[str, Floats], dict[str, Floats]]:
        """Answers of the graph without rounding, and rounded anew within the file's own ranges."""
        return run(self.unrounded, pictures), run(self._within, pictures)

    @cached_property
    def _within(self) -> Answers:
        return self._rounded(self.opened.ranges)


def batch_of(pictures: Pixels) -> int:
    """How many pictures at once: every tensor of a batch may stand in memory together."""
    return max(1, min(16, 2 * 224 * 224 // int(pictures.shape[1] * pictures.shape[2])))


def run(answers: Answers, pictures: Pixels) -> dict[str, Floats]:
    """Every output over pictures (N, H, W, 3), a few at a time."""
    size = batch_of(pictures)
    parts = [answers(pictures[start : start + size]) for start in range(0, len(pictures), size)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def graph_checks(evidence: Evidence) -> Iterator[Check | Unexamined]:
    """Stage graph: with the run's own numbers and nothing rounded, the file answers as the module,
    probes included.
    """
    if isinstance(evidence.opened, ProgramFile):
        yield Unexamined("graph", "a program in fp32 rounds nothing: stage values holds it to the same bound")
        return
    truth = evidence.truth
    count = min(GRAPH_PICTURES, len(truth.pictures))
    logits = run(evidence.unrounded, np.concatenate([truth.pictures[:count], truth.probes]))
    for output, reference in truth.logits.items():
        probes = truth.probe_logits[output]
        scale = float(np.abs(reference).max()) or 1.0
        wide = max(scale, float(np.abs(probes).max()))
        parts = (
            ("pictures", logits[output][:count], reference[:count], scale),
            ("probes", logits[output][count:], probes, wide),
        )
        for what, subject, module, size in parts:
            apart = float(np.abs(subject - module).max()) / size
            name = f"without rounding, {what}: largest difference / scale"
            yield at_most("graph", name if output == "logits" else f"{output}: {name}", apart, FLOAT_BOUND)


def arithmetic_checks(evidence: Evidence) -> Iterator[Check | Unexamined]:
    """Stage arithmetic: every number is the run's but for rounding, every range what
    the run's pictures need.
    """
    matches, strangers = evidence._matched
    yield equal(STAGE, "quantisers that do not fit their dequantisers", evidence.opened.faults[:3], [])
    yield from numbers(matches, strangers, evidence.precision, evidence.truth.exact)
    if evidence.precision != "int8":
        return
    if not len(evidence.training):
        yield Unexamined(STAGE, "activation ranges: the run's training pictures are not here", decides=True)
    else:
        yield from range_checks(evidence.opened.ranges, evidence.reach, evidence.rule)
