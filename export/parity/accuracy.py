"""Stages labels and accuracy, by numbers: answers picture by picture, and whether what is told of them
is true.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from export.numbers.check import Check, at_least, at_most
from export.numbers.statistics import Comparison
from export.parity.bounds import BOUNDS, Bounds
from export.parity.reference import Reference
from lfdeploy.models.targets import top1_of

ANCHOR = 0.3  # points; training may have measured on a GPU, in its arithmetic


def agreement(comparison: list[Comparison], bounds: list[Bounds]) -> Iterator[Check]:
    """How many labels are the module's."""
    found = comparison[0]
    yield at_least("labels", "agreement, %", found.agreement, _few(bounds[0].agreement, 100, found))


def accuracy(comparison: list[Comparison], precision: str) -> Iterator[Check]:
    """Pictures lost and won, paired."""
    found = comparison[0]
    name = "change of top-1 in points, lower end of the paired 95 % interval"
    bound = _few(BOUNDS[precision].ci_low, 0, found)
    if precision in ("bf16", "int8"):
        if found.images < 5000:  # the interval is wide: the change itself must stay within
            bound -= (found.ci_high - found.ci_low) / 2
        yield at_least(
            "accuracy",
            "McNemar's p, if pictures were lost",
            found.mcnemar if found.top1 < found.top1_reference else 1.0,
            0.01,
        )
    yield at_least("accuracy", name, found.ci_low, bound)


def anchor(ref: Reference, same_data: bool) -> Iterator[Check]:
    """The module that the file is compared with is right as often as training's own code found, but for few
    flips of rounding.
    """
    tested = ref.run.read("summary.json")["test"]
    if same_data and len(ref.images) == ref.run.read("summary.json")["data"]["test"]:
        wanted = top1_of(tested)[ref.target]
        here = 100 * float((ref.logits.argmax(1) == ref.images.labels).mean())
        room = max(ANCHOR, 100 * 3 / len(ref.images))
        yield at_most(
            "accuracy",
            "top-1 of the module, from the one that training found, points",
            abs(here - wanted),
            room,
        )


def told(manifest: dict[str, Any], found: Comparison, precision: str, same_data: bool) -> Iterator[Check]:
    """The accuracy that the manifest tells, once there is one, is the one found on the same pictures, but for
    few flips.
    """
    told = manifest.get("accuracy")
    if told and same_data and "data" not in told and told["images"] == found.images:
        room = 100 - _few(BOUNDS[precision].agreement, 100, found)
        for key, here in (("top1", found.top1), ("top1_reference", found.top1_reference)):
            yield at_most(
                "accuracy",
                f"{key} in the manifest, from the one here, points",
                abs(float(told[key]) - here),
                room,
            )


def _few(bound: float, perfect: float, found: Comparison) -> float:
    """The bound, or what three flips of so few pictures make: their margin was bounded before."""
    return min(bound, perfect - 100 * 3 / found.images)
