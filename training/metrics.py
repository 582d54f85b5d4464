"""metrics.jsonl of a run, a line an epoch, and the same for other tools: metrics.csv and TensorBoard."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from lfdeploy.config import TrainConfig
from lfdeploy.console import duration, say
from lfdeploy.errors import LfdeployError
from lfdeploy.labels import counted, some
from lfdeploy.run import Run, write_bytes
from training.evaluate import PROBABILITIES

FILE, CSV, EVENTS = "metrics.jsonl", "metrics.csv", "tensorboard"
NEEDED = {"epoch", "loss", "parts", "lr", "train", "val"}  # keys of every line
SEEN = "seen "  # begins the names of sums that are no part of the loss

Row = dict[str, Any]


def add(sums: dict[str, Tensor], parts: Mapping[str, Tensor], seen: Mapping[str, Tensor]) -> None:
    """Add a step's parts of the loss, and what the engine saw of its pictures, to the sums of an epoch."""
    step = {**parts, **{SEEN + name: value for name, value in seen.items()}}
    for name, value in step.items():
        if name not in sums:
            sums[name] = torch.zeros_like(value, dtype=torch.float64)
    torch._foreach_add_([sums[name] for name in step], [value.double() for value in step.values()])


def means(sums: Mapping[str, Tensor], steps: int) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """The parts of the loss, and by target top-1 in % and cross-entropy, as means over the steps of an epoch.

    Of what was trained on, as it was augmented, while the networks learned.
    """
    mean = {name: float(value) / steps for name, value in sums.items()}
    train: dict[str, dict[str, float]] = {"top1": {}, "cross_entropy": {}}
    for name, value in mean.items():
        if name.startswith(SEEN):
            target, what = name.removeprefix(SEEN).rsplit(".", 1)
            train[what][target] = 100 * value if what == "top1" else value
    return {name: value for name, value in mean.items() if not name.startswith(SEEN)}, train


def append(run: Run, row: Row, config: TrainConfig) -> None:
    """Write an epoch's line, wherever it is asked for."""
    with (run.path / FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    if config.csv:
        write_csv(run)
    if config.tensorboard:
        writer = _writer(str(run.path / EVENTS))
        for name, value in flat(row):
            if name != "epoch":
                writer.add_scalar(name, value, row["epoch"])
        writer.flush()


_writers: dict[str, Any] = {}


def _writer(folder: str) -> Any:
    """One file of events for each sitting of a run."""
    from torch.utils.tensorboard import SummaryWriter

    if folder not in _writers:
        _writers[folder] = SummaryWriter(folder)
    return _writers[folder]


def close() -> None:
    """Close what is open for TensorBoard."""
    for writer in _writers.values():
        writer.close()
    _writers.clear()


def flat(row: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    """Numbers of a line by the path to them: ``train/top1/peer0``."""
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{above}{name}/")
        else:
            yield f"{above}{name}", value


def write_csv(run: Run) -> None:
    """All lines so far as a table with one header."""
    rows = [dict(flat(row)) for row in lines(run)]
    text = io.StringIO()
    table = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)))
    table.writeheader()
    table.writerows(rows)
    write_bytes(run.path / CSV, text.getvalue().encode())


def lines(run: Run) -> list[Row]:
    """The lines of a run. What is no line of an epoch, as one that was half written, is left out."""
    return [row for _, row in _read(run) if row is not None]


def _read(run: Run) -> list[tuple[bytes, Row | None]]:
    """Every line as it is written, and what it says of its epoch; None for one that says nothing."""
    path = run.path / FILE
    blob = path.read_bytes() if path.exists() else b""
    return [(line, _row(line)) for line in blob.splitlines(keepends=True) if line.strip()]


def _row(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:  # also for bytes that are no UTF-8
        return None
    known = isinstance(row, dict) and row.keys() >= NEEDED and type(row["epoch"]) is int
    return row if known else None


def trim(run: Run, epochs: int) -> None:
    """Drop lines of epochs that will be run again, and what is no line of an epoch; say which of the
    ``epochs`` that are done have none.
    """
    found = _read(run)
    if not found and not epochs:  # it begins
        return
    kept = {row["epoch"]: line for line, row in found if row is not None and 1 <= row["epoch"] <= epochs}
    write_bytes(run.path / FILE, b"".join(line.rstrip(b"\r\n") + b"\n" for _, line in sorted(kept.items())))
    torn = sum(row is None for _, row in found)
    missing = [str(epoch) for epoch in range(1, epochs + 1) if epoch not in kept]
    if torn:
        verb = "is" if torn == 1 else "are"
        say(f"Note: {counted(torn, 'line')} of {FILE} {verb} no epoch's: dropped.")
    if missing:
        which = f"epoch{'s' * (len(missing) > 1)} {some(missing, 8)}"
        say(f"Note: {FILE} has no line of {which}; the weights are whole, curves and tables lack it.")


def told(row: Row, epochs: int, left: float) -> str:
    """An epoch as a person reads it."""
    val = "  ".join(f"{name} {value:.1f}" for name, value in row["val"].items() if name != PROBABILITIES)
    rest = f"{row['images_per_second']:,.0f} img/s" + (
        f", {duration(left)} left" if row["epoch"] < epochs else ""
    )
    head = f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}  loss {row['loss']:.3f}"
    return "  ".join([head, *([f"val {val}"] if val else []), rest])


def check_tensorboard() -> None:
    """Raise `LfdeployError` where what ``--tensorboard`` needs is not installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        raise LfdeployError(
            "--tensorboard needs a package that is not installed. Install it with: pip install tensorboard"
        ) from None
