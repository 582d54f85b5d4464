"""Every setting of every stage: flat frozen dataclasses. A field is a flag; its
help text sits on the field.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from lfdeploy.errors import UsageError, choose
from lfdeploy.settings import recipes, setting

LARGEST_SEED = 2**32 - 1  # 32 bits, which each epoch mixes with its number


def _positive(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"--{name.replace('_', '-')} is {value}; it must be a number greater than 0.")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which pictures, at what size, split how. Two equal ones load the same arrays."""

    data: str = setting(
        "digits", "name, folder of class folders, .npz, or .csv (path,label[,split])", metavar="NAME|DIR|FILE"
    )
    data_root: str | None = setting(None, "where torchvision data sets live (default: ./data)", metavar="DIR")
    image_size: int | None = setting(None, "side of the model's square input (default: by data)", metavar="N")
    val_fraction: float = setting(0.1, "held out when there is no val/; 0 keeps the last epoch", metavar="F")
    test_fraction: float = setting(0.2, "held out when there is no test/", metavar="F")
    strict: bool = setting(False, "a corrupt picture is an error, not a report")
    seed: int = setting(0, "seed of everything random", metavar="S")

    def __post_init__(self) -> None:
        for name in ("val_fraction", "test_fraction"):
            value = getattr(self, name)
            if not 0 <= value < 0.9:
                raise UsageError(f"--{name.replace('_', '-')} is {value}; it must be from 0 to below 0.9.")
        if self.image_size is not None and not 8 <= self.image_size <= 1024:
            raise UsageError(f"--image-size is {self.image_size}; it must be from 8 to 1024.")
        if not 0 <= self.seed <= LARGEST_SEED:
            raise UsageError(f"--seed is {self.seed}; it must be from 0 to {LARGEST_SEED}.")


BALANCES = ("none", "weights", "sampling")
AUGMENTS = ("none", "crop", "crop-flip", "photo")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(DataConfig):
    """What one training run does."""

    arch: str | None = setting(None, "one architecture, or one per peer with commas", metavar="A[,B...]")
    peers: int | None = setting(None, "how many networks learn together (default: by method)", metavar="M")
    method: str = setting("lfmkd", "how they teach each other; see 'lfdeploy list methods'", metavar="NAME")
    teacher: str | None = setting(None, "runs or artifacts that teach (kd, at, ...)", metavar="NAME[,...]")
    option: tuple[tuple[str, str], ...] = setting((), "a setting of the method, as KEY VALUE", short="-o")
    weights: str | None = setting(
        None, "where the networks start: a run, an artifact, a state dict, or default", metavar="NAME|FILE"
    )
    recipe: str | None = setting(
        None, "of settings that go together: see 'lfdeploy list recipes' (default: by data)", metavar="NAME"
    )
    time: str | None = setting(
        None, "as many epochs as fit, with all that comes before and after: 90s, 8m, 2h", metavar="T"
    )
    epochs: int | None = setting(None, "passes over the training split", metavar="N")
    steps: int | None = recipes("of an epoch, where not over the whole split", metavar="N")
    batch_size: int | None = setting(None, "pictures per step", metavar="B")
    optimizer: str | None = recipes("SGD with Nesterov's 0.9, or AdamW", choices=("sgd", "adamw"))
    lr: float | None = setting(None, "peak learning rate", metavar="X")
    fresh_lr: float | None = recipes("with --weights: how much faster heads and fusions learn", metavar="X")
    weight_decay: float | None = setting(None, "on the weights of the peers", metavar="X")
    decay_norms: bool | None = recipes("on norms and biases as well", metavar="true|false")
    schedule: str | None = recipes("learning rate over the epochs", choices=("cosine", "step"))
    warmup: float | None = recipes("share of the epochs in which the rate rises", metavar="F")
    label_smoothing: float | None = recipes("of the labels' cross-entropy", metavar="F")
    augment: str | None = recipes(
        "per batch, on the device; photo: random areas and colours", choices=AUGMENTS
    )
    train_size: int | None = recipes("side of the pictures trained on, with --augment photo", metavar="N")
    views: str | None = recipes(
        "of a picture: the same for all peers, or each its own", choices=("shared", "own")
    )
    fit_heads: bool | None = recipes(
        "with --weights: fit new heads before anything else learns", metavar="true|false"
    )
    keep_statistics: bool | None = recipes(
        "with --weights: of BatchNorm, mean and deviation", metavar="true|false"
    )
    freeze: str | None = setting(
        None, "with --weights: epochs at first in which heads alone learn, or all", metavar="N|all"
    )
    freeze_parts: int | None = recipes(
        "with --weights: leading parts, the stem and stages, that never learn", metavar="N"
    )
    balance: str = setting(
        "none", "classes of few pictures count as much: weights (alone), or sampling", choices=BALANCES,
        metavar="[HOW]", alone="weights",
    )  # fmt: skip
    patience: int = setting(
        0, "epochs without a better validation after which it stops; 0: never", metavar="N", hidden=True
    )
    tensorboard: bool = setting(False, "also write the metrics for TensorBoard", hidden=True)
    csv: bool = setting(False, "also write the metrics as metrics.csv", hidden=True)
    sync_bn: bool = setting(False, "under torchrun: statistics of BatchNorm over all processes", hidden=True)
    device: str = setting("auto", "where to train", choices=("auto", "cpu", "cuda"))
    precision: str = setting(
        "auto", "of the forward pass; weights stay fp32", choices=("auto", "fp32", "bf16")
    )
    threads: str = setting("auto", "CPU: one thread per peer, or shared", choices=("auto", "peer", "shared"))

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self, "peers", "epochs", "steps", "batch_size", "lr", "fresh_lr")
        if self.patience < 0:
            raise UsageError(f"--patience is {self.patience}; it must be 0 or greater.")
        if self.weight_decay is not None and not 0 <= self.weight_decay < float("inf"):
            raise UsageError(f"--weight-decay is {self.weight_decay}; it must be 0 or greater.")
        for name, what in (("warmup", "a share of the epochs"), ("label_smoothing", "a share of the labels")):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise UsageError(f"--{name.replace('_', '-')} is {value}; it is {what}, from 0 to below 1.")
        if self.augment not in (None, *AUGMENTS):
            raise UsageError(f"--augment is '{self.augment}'. Choose one of: {', '.join(AUGMENTS)}.")
        if self.train_size is not None and not 8 <= self.train_size <= 1024:
            raise UsageError(f"--train-size is {self.train_size}; it must be from 8 to 1024.")
        if self.time is not None:
            seconds_of(self.time)
            if self.epochs is not None or self.steps is not None:
                raise UsageError("--time says how long, --epochs and --steps how often; drop one of them.")
        self._check_frozen()
        names = self.arch.split(",") if self.arch else []
        if len(names) > 1 and self.peers is not None and self.peers != len(names):
            raise UsageError(f"--arch names {len(names)} networks but --peers is {self.peers}; drop --peers.")

    def _check_frozen(self) -> None:
        """Raise `UsageError` for a wrong ``freeze`` or ``freeze_parts``."""
        if self.freeze is not None and self.freeze != "all" and not str(self.freeze).isdecimal():
            raise UsageError(f"--freeze is {self.freeze}; it must be all, or a number of epochs.")
        if self.freeze_parts is not None and self.freeze_parts < 0:
            raise UsageError(f"--freeze-parts is {self.freeze_parts}; it must be 0 or greater.")
        for name in ("freeze", "freeze_parts", "fit_heads", "keep_statistics", "fresh_lr"):
            value = getattr(self, name)
            if value and str(value) not in ("0", "1.0") and not self.weights:
                flag = f"--{name.replace('_', '-')}"
                raise UsageError(f"{flag} is {value}; that is for trained weights: add --weights.")

    def archs(self, default: str, peers: int) -> tuple[str, ...]:
        """One architecture name per peer; ``default`` and ``peers`` are taken where nothing is said."""
        names = tuple((self.arch or default).split(","))
        return names if len(names) > 1 else names * (self.peers or peers)


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
    out: str | None = setting(None, "directory for the artifact (default: RUN/artifacts)", metavar="DIR")
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
    require_verified: bool = setting(False, "exit 4 when the file cannot be run here")

    def __post_init__(self) -> None:
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


def seconds_of(time: str) -> float:
    """What ``--time`` says, in seconds."""
    found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", time)
    hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    total = 3600 * hours + 60 * minutes + seconds
    if total == 0:
        raise UsageError(f"--time is '{time}'; write 90s, 8m, 2h or 1h30m.")
    return float(total)


def flags_of(target: str) -> str:
    """The flags of `lfdeploy export` that ask for a target."""
    if target == "all":
        return "--all --single-file"
    peer = re.fullmatch(r"peer(\d+)", target)
    if peer:
        return f"--peer {peer[1]}"
    return f"--{target}" if target in ("fused", "ensemble") else f"--target {target}"


def parse_options(kind: type[Any], pairs: Sequence[tuple[str, str]], owner: str) -> Any:
    """KEY VALUE pairs as an instance of a flat dataclass, typed by its fields' defaults."""
    known = {f.name: f for f in fields(kind)}
    values: dict[str, Any] = {}
    for key, text in pairs:
        key = key.replace("-", "_")
        if not known:
            raise UsageError(f"Method '{owner}' has no options, so '-o {key}' has no meaning.")
        choose(f"option of {owner}", key, sorted(known))
        default = known[key].default
        allowed = known[key].metadata.get("choices") or ()
        if allowed and text not in allowed:
            raise UsageError(f"-o {key} is '{text}'. Choose one of: {', '.join(allowed)}.")
        try:
            if isinstance(default, bool):
                values[key] = {"true": True, "1": True, "false": False, "0": False}[text.lower()]
            else:
                values[key] = type(default)(text)  # type: ignore[misc]
        except (ValueError, KeyError):
            needed = {bool: "true or false", int: "a whole number"}.get(type(default), "a number")
            raise UsageError(f"-o {key} is '{text}'; it must be {needed}.") from None
    return kind(**values)
