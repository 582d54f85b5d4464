"""Means, spreads and paired differences of lines, and in what else their runs differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

#: What is compared: the mean of the networks that learn, the fused classifier, the mean of their logits.
ROLES = ("peers", "fused", "ensemble")


@dataclass(frozen=True)
class Difference:
    """Of two methods, paired by seed: mean and deviation of ``n`` differences, and half of the 95 % interval
    by Student's t.

    ``role`` is what of the other method it is to. With one pair there is neither deviation nor interval.
    """

    mean: float
    deviation: float | None
    half: float | None
    n: int
    role: str

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero, of at least three pairs that are not all alike."""
        return self.half is not None and self.n >= 3 and abs(self.mean) > self.half > 0


@dataclass(frozen=True)
class Cell:
    """One role of one method: values by seed, their mean and deviation, and the difference to its equal."""

    values: dict[int, float]
    mean: float
    deviation: float | None
    difference: Difference | None


@dataclass(frozen=True)
class Row:
    """One method: its cells by role, its seconds and parameters relative to those it is held to."""

    label: str
    base: bool
    cells: dict[str, Cell]
    seconds: float
    parameters: int
    time_ratio: float
    parameter_ratio: float


def values_of(line: dict[str, Any], role: str) -> float | None:
    """Top-1 in % of a role in the last epoch; None where the method has none."""
    value = line["test_last"][role]
    return float(np.mean(value)) if role == "peers" else value


def compared(lines: Sequence[dict[str, Any]], labels: Sequence[str], base: str) -> list[Row]:
    """A row for every label, held to the one called ``base``."""
    by_label = {label: [line for line in lines if line["label"] == label] for label in labels}
    return [_row(label, by_label[label], base, by_label[base]) for label in labels]


def _row(label: str, lines: list[dict[str, Any]], base: str, others: list[dict[str, Any]]) -> Row:
    cells = {}
    for role in ROLES:
        values = _by_seed(lines, role)
        if not values:
            continue
        equal = role if _by_seed(others, role) else "ensemble"  # a fused one's equal is then the ensemble
        found = None if label == base else difference(values, _by_seed(others, equal), equal)
        each = list(values.values())
        cells[role] = Cell(values, float(np.mean(each)), deviation(each), found)
    pairs = {line["seed"]: line["seconds"] for line in others}
    seconds = [line["seconds"] for line in lines]
    ratios = [line["seconds"] / pairs[line["seed"]] for line in lines if line["seed"] in pairs]
    parameters = int(lines[0]["parameters"]["trained"])
    return Row(
        label,
        label == base,
        cells,
        float(np.mean(seconds)),
        parameters,
        float(np.mean(ratios)),
        parameters / int(others[0]["parameters"]["trained"]),
    )


def _by_seed(lines: Sequence[dict[str, Any]], role: str) -> dict[int, float]:
    found = {line["seed"]: values_of(line, role) for line in lines}
    return {seed: value for seed, value in found.items() if value is not None}


def deviation(values: Sequence[float]) -> float | None:
    """Standard deviation of a sample, by n - 1; None of a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def difference(these: dict[int, float], those: dict[int, float], role: str) -> Difference:
    """These minus those over the seeds that both have."""
    from scipy.stats import t

    pairs = [these[seed] - those[seed] for seed in these if seed in those]
    spread = deviation(pairs)
    half = None
    if spread is not None:
        half = float(t.ppf(0.975, len(pairs) - 1)) * spread / math.sqrt(len(pairs))
    return Difference(float(np.mean(pairs)), spread, half, len(pairs), role)


def check_alone(lines: Sequence[dict[str, Any]]) -> list[str]:
    """Sentences about all in which the runs differ, but for their methods and seeds."""
    remarks = []
    kinds: dict[str, dict[str, list[str]]] = {}

    def note(what: str, value: object, line: dict[str, Any]) -> None:
        kinds.setdefault(what, {}).setdefault(str(value), []).append(f"{line['label']} s{line['seed']}")

    for line in lines:
        for key, value in line["settings"].items():
            note(f"--{key.replace('_', '-')}", value, line)
        for key in ("device", "gpu", "cpu", "threads", "precision"):
            note(key, line.get(key), line)
        for key in ("lfdeploy", "torch", "python"):
            note(key, line["versions"][key], line)
        note("pictures", str(line["data"].get("pictures"))[:12], line)
        note(f"pictures of seed {line['seed']}", line["data"]["fingerprint"][:12], line)
        note("architectures", "+".join(sorted(set(line["archs"]))), line)
        note("number of networks", len(line["archs"]), line)
    for what, values in kinds.items():
        if len(values) > 1:
            told = "; ".join(f"{value}: {_some(owners)}" for value, owners in values.items())
            remarks.append(f"The runs differ in {what}. {told}.")
    if len({line["data"]["fingerprint"] for line in lines}) > 1:
        remarks.append("Each seed has its own pictures to test: the split is drawn by the seed.")
    return remarks


def _some(owners: list[str]) -> str:
    return ", ".join(owners[:4]) + (f" and {len(owners) - 4} more" if len(owners) > 4 else "")
