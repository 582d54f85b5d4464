"""Every setting of an export."""

from __future__ import annotations

from dataclasses import dataclass

from lfdeploy.errors import UsageError, choose
from lfdeploy.settings import check, setting

PRECISIONS = ("fp32", "fp16", "bf16", "int8")


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What one export makes."""

    peer: int | None = setting(None, "one peer, counted from 0", metavar="N")
    fused: bool = setting(False, "the fused classifier: all peers and the end fusion")
    ensemble: bool = setting(False, "the mean of the peers' logits")
    target: str | None = setting(
        None, "one target by its name; 'lfdeploy list runs RUN' names them", metavar="NAME"
    )
    all: bool = setting(False, "every peer, the fused classifier and the ensemble")
    single_file: bool = setting(False, "with --all: one file with every output, each backbone computed once")
    format: str = setting(
        "onnx", "of the file: onnx, trt, openvino, torch; see: lfdeploy list backends", metavar="NAME"
    )
    precision: str = setting("fp32", "fp32, fp16, bf16, int8, or several with commas", metavar="P[,P...]")
    batch: str = setting("1:8:64", "batch sizes it must serve", metavar="MIN:OPT:MAX")
    engine: str = setting("auto", "which TensorRT", choices=("auto", "tensorrt", "tensorrt-rtx"))
    portable: bool = setting(
        False, "the engine must also run on other GPUs, from Ampere on, and under later TensorRTs"
    )
    out: str | None = setting(
        None,
        "the artifact's directory; of several, the one they go into (default: RUN/artifacts)",
        metavar="DIR",
    )
    explain: bool = setting(False, "a heat map of the evidence for the top class as a further output")
    calibrate: bool = setting(
        False, "divide logits by a temperature in the graph, and find when to say 'not sure'"
    )
    accuracy_when_sure: float | None = setting(
        None, "--calibrate: wanted of sure answers, in % (default: 99)", metavar="P"
    )
    force: bool = setting(False, "does nothing: int8 is published however fast it is")
    require_faster: bool = setting(False, "exit 1 and publish no int8 below 1.1 times the speed of fp32 here")
    triton: str | None = setting(None, "also write a Triton model repository", metavar="DIR")
    triton_pictures: bool = setting(False, "--triton: with an ensemble that takes files, as JPEG")
    require_verified: bool = setting(False, "exit 4 when the file cannot be run here")

    def __post_init__(self) -> None:
        check(self)
        chosen = [self.peer is not None, self.fused, self.ensemble, self.target is not None, self.all]
        if sum(chosen) != 1:
            what = "Nothing says what" if not any(chosen) else "Only one target at a time"
            raise UsageError(
                f"{what} to export: add one of --peer N, --fused, --ensemble, --target NAME, --all."
            )
        if self.single_file and self.explain:
            raise UsageError(
                "--explain with --single-file has no meaning: one map cannot explain several "
                "classifiers. Drop one of them."
            )
        if self.single_file and not self.all:
            raise UsageError("--single-file has no meaning without --all; add it.")
        if self.peer is not None and self.peer < 0:
            raise UsageError(f"--peer is {self.peer}; peers are counted from 0.")
        if self.accuracy_when_sure is not None and not self.calibrate:
            raise UsageError("--accuracy-when-sure has no meaning without --calibrate; add it.")
        if self.accuracy_when_sure is not None and not 0 < self.accuracy_when_sure < 100:
            raise UsageError(
                f"--accuracy-when-sure is {self.accuracy_when_sure:g}; it must be above 0 and below "
                "100, in %."
            )
        if self.triton_pictures and self.triton is None:
            raise UsageError("--triton-pictures has no meaning without --triton; add it.")
        for precision in self.precisions:
            choose("precision", precision, list(PRECISIONS))
        self.profile  # noqa: B018  (checks the syntax)

    @property
    def named(self) -> str:
        """The name of the one target that is asked for; ``--all`` asks for none."""
        return self.target or ("fused" if self.fused else "ensemble" if self.ensemble else f"peer{self.peer}")

    @property
    def precisions(self) -> tuple[str, ...]:
        """Each precision once, in the order given."""
        return tuple(dict.fromkeys(self.precision.split(",")))

    @property
    def profile(self) -> tuple[int, int, int]:
        """The batch sizes (min, opt, max)."""
        try:
            low, opt, high = (int(part) for part in self.batch.split(":"))
        except ValueError:
            raise UsageError(f"--batch is '{self.batch}'; write MIN:OPT:MAX, for example 1:8:64.") from None
        if low != 1 or not low <= opt <= high:
            raise UsageError(f"--batch is '{self.batch}'; MIN must be 1 and MIN <= OPT <= MAX.")
        return low, opt, high
