"""Every setting of every stage: flat frozen dataclasses. A field is a flag; its
help text sits on the field.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from lfdeploy.errors import UsageError, choose
from lfdeploy.export_options import PRECISIONS as PRECISIONS
from lfdeploy.export_options import ExportConfig as ExportConfig
from lfdeploy.settings import check, recipes, setting

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
    data_root: str | None = setting(
        None, "where torchvision data sets live (default: ./data)", metavar="DIR", hidden=True
    )
    image_size: int | None = setting(None, "side of the model's square input (default: by data)", metavar="N")
    val_fraction: float = setting(0.1, "held out when there is no val/; 0 keeps the last epoch", metavar="F")
    test_fraction: float = setting(0.2, "held out when there is no test/", metavar="F")
    cache: str | None = setting(
        "auto",
        "where decoded pictures are kept for later epochs and commands: a folder, none, or auto (beside the "
        "runs, where there are many)",
        metavar="auto|none|DIR",
        hidden=True,
    )
    strict: bool = setting(False, "a corrupt picture is an error, not a report", hidden=True)
    seed: int = setting(0, "seed of everything random", metavar="S")

    def __post_init__(self) -> None:
        check(self)
        for name in ("val_fraction", "test_fraction"):
            value = getattr(self, name)
            if not 0 <= value < 0.9:
                raise UsageError(f"--{name.replace('_', '-')} is {value}; it must be from 0 to below 0.9.")
        if self.image_size is not None and not 8 <= self.image_size <= 1024:
            raise UsageError(f"--image-size is {self.image_size}; it must be from 8 to 1024.")
        if not 0 <= self.seed <= LARGEST_SEED:
            raise UsageError(f"--seed is {self.seed}; it must be from 0 to {LARGEST_SEED}.")


BALANCES = ("none", "weights", "sampling")
#: Settings from 0 to below 1, and of what they are a share.
SHARES = {
    "warmup": "a share of the epochs", "label_smoothing": "a share of the labels",
    "erasing": "a share of the pictures", "ema": "what an average keeps of itself in a step",
}  # fmt: skip
POLICIES = ("none", "trivial", "rand")
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
    weight_decay: float | None = recipes("on the weights of the peers", metavar="X")
    decay_norms: bool | None = recipes("on norms and biases as well", metavar="true|false")
    schedule: str | None = recipes("learning rate over the epochs", choices=("cosine", "step"))
    warmup: float | None = recipes("share of the epochs in which the rate rises", metavar="F")
    clip_norm: float | None = recipes("longest gradient of a step; 0: any", metavar="X")
    ema: float | None = recipes(
        "decay of an average of the weights, which is what is judged and kept; 0: none", metavar="D"
    )
    erasing: float | None = recipes("share of the pictures that lose a random rectangle", metavar="F")
    mixup: float | None = recipes("alpha of mixing pictures and labels in pairs; 0: none", metavar="A")
    cutmix: float | None = recipes("alpha of pasting a part of another picture; 0: none", metavar="A")
    label_smoothing: float | None = recipes("of the labels' cross-entropy", metavar="F")
    policy: str | None = recipes(
        "of further changes of each picture: torchvision's TrivialAugmentWide or RandAugment",
        choices=POLICIES,
    )
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
    freeze: str | int | None = setting(
        None, "with --weights: epochs at first in which heads alone learn, or all", metavar="N|all"
    )
    freeze_parts: int | None = recipes(
        "with --weights: leading parts, the stem and stages, that never learn", metavar="N"
    )
    accumulate: int = setting(
        1, "pieces that each batch is computed in, one by one, for less memory", metavar="N", hidden=True
    )
    graph: bool = setting(False, "CUDA: record a step once and repeat it", hidden=True)
    compile: bool = setting(False, "with --graph: compile the networks' blocks first", hidden=True)
    deterministic: bool = setting(
        False,
        "CUDA: only kernels that sum in one order, slower; an operation that has none is an error. Runs on "
        "a CPU are repeatable without it",
        hidden=True,
    )
    balance: str = setting(
        "none", "rare classes count as much", choices=BALANCES, metavar="[HOW]", alone="weights"
    )  # fmt: skip
    patience: int = setting(
        0, "epochs without a better validation after which it stops; 0: never", metavar="N", hidden=True
    )
    tensorboard: bool = setting(False, "also write the metrics for TensorBoard", hidden=True)
    csv: bool = setting(False, "also write the metrics as metrics.csv", hidden=True)
    sync_bn: bool = setting(False, "under torchrun: statistics of BatchNorm over all processes", hidden=True)
    device: str = setting("auto", "where to train", choices=("auto", "cpu", "cuda"))
    precision: str = setting(
        "auto", "of the forward pass; weights stay fp32", choices=("auto", "fp32", "bf16", "fp16")
    )
    threads: str = setting(
        "auto", "CPU: auto, peer, shared, or how many at most", metavar="HOW"
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self, "peers", "epochs", "steps", "batch_size", "lr", "fresh_lr")
        if self.threads not in ("auto", "peer", "shared") and not (
            self.threads.isdecimal() and int(self.threads)
        ):
            raise UsageError(
                f"--threads is '{self.threads}'; write auto, peer, shared, or a number from 1 on."
            )
        if self.compile and not self.graph:
            raise UsageError("--compile is for --graph, on a GPU: add --graph, or drop --compile.")
        if self.accumulate < 1:
            raise UsageError(f"--accumulate is {self.accumulate}; it must be 1 or greater.")
        if self.patience < 0:
            raise UsageError(f"--patience is {self.patience}; it must be 0 or greater.")
        if self.weight_decay is not None and not 0 <= self.weight_decay < float("inf"):
            raise UsageError(f"--weight-decay is {self.weight_decay}; it must be 0 or greater.")
        for name, what in SHARES.items():
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise UsageError(f"--{name.replace('_', '-')} is {value}; it is {what}, from 0 to below 1.")
        for name in ("clip_norm", "mixup", "cutmix"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise UsageError(f"--{name.replace('_', '-')} is {value}; it must be 0 or greater.")
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
