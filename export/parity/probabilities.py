"""`lfdeploy export --calibrate`: probabilities that mean what they say, and a threshold below which an answer
is not sure.

T divides the logits inside the graph: ``probabilities = softmax(logits / T)``, ``logits`` stay as they are.
So every client in any language gets calibrated probabilities without knowing of T, one that wants others
makes them from the logits, and no label changes. The reference is defined alike, softmax(logits of the fp32
module / T), and the gate finds T and what the manifest says of the threshold again, from the run's weights
and validation pictures, rather than believe them.

T and the threshold come from the validation split alone. What they are worth is then measured on the
test split.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.numbers.check import Check, Unexamined, at_least, at_most, equal
from export.numbers.statistics import Floats
from export.numbers.temperature import (
    ROOM,
    find_threshold,
    fit,
    lower_bound,
    needed,
    nll,
    probabilities,
    reliability,
)
from export.parity.reference import Reference, validation
from lfdeploy.backends import Session
from lfdeploy.backends.base import in_chunks
from lfdeploy.confidence import KEY, temperature
from lfdeploy.config import ExportConfig
from lfdeploy.data import Data, Split
from lfdeploy.run import Run

FEWEST = 50
ACCURACY = 99.0
READ_BACK = 64  # pictures: of a single sure one nothing can be told
CLOSE = 1e-3  # T is stored to four digits; other machines' logits differ by less
ASIDE = 0.02
VISIBLE = 1e-6  # probabilities below it may be those of another exp()


def calibration(config: ExportConfig, run: Run, target: str, data: Data | None) -> dict[str, Any]:
    """The part of a target's manifest that --calibrate adds; empty without it."""
    if not config.calibrate or data is None:
        return {}
    return {KEY: calibrate(*validation(run, target, data), data, config.accuracy_when_sure or ACCURACY)}


def calibrate(images: Split, logits: Floats, data: Data, accuracy: float) -> dict[str, Any]:
    """What the manifest says under ``probability_calibration``, from `validation`'s pictures and logits;
    ``temperature`` is None, with a ``reason``, where there can be none, ``threshold`` likewise with
    ``threshold_reason``.
    """
    told = {
        "temperature": None,
        "threshold": None,
        "split": "val",
        "images": len(images),
        "digest": images.digest,
        "left_out": len(data.val) - len(images),
        "target_accuracy": accuracy,
    }
    if len(data.val) == 0:
        return told | {"reason": "the run holds no validation pictures (--val-fraction 0); train with some"}
    if len(images) < FEWEST:
        shared = f" ({told['left_out']} others are in train or test too)" if told["left_out"] else ""
        return told | {"reason": f"{len(images)} validation pictures{shared} are too few; it takes {FEWEST}"}
    return told | measured(logits, images.labels, accuracy)


def measured(logits: Floats, labels: NDArray[np.int64], accuracy: float) -> dict[str, Any]:
    """T and threshold from validation logits (N, K), with what they do there."""
    found, reason = fit(logits, labels)
    if found is None:
        return {"temperature": None, "threshold": None, "reason": reason}
    p = probabilities(logits, found)
    least = find_threshold(p.max(1), p.argmax(1) == labels, accuracy)
    told = {"temperature": found, "threshold": least and least.value, "reason": ""} | _before_and_after(
        logits, labels, found
    )
    if least is None:
        return told | {"threshold_reason": _unreachable(len(labels), accuracy)}
    return told | {
        "answered": least.answered, "right": least.right, "coverage": 100 * least.answered / len(labels),
        "accuracy_when_answered": 100 * least.right / least.answered, "accuracy_lower_bound": least.bound,
    }  # fmt: skip


def _unreachable(images: int, accuracy: float) -> str:
    most = lower_bound(images, images)
    if needed(accuracy) > images:
        return (
            f"{accuracy:g} % cannot be proven with {images:,} validation pictures (it takes "
            f"{needed(accuracy):,}, all right); "
            f"at most --accuracy-when-sure {np.floor(most):g} can"
        )
    return (
        f"at no probability are the answered provably right {accuracy:g} % of the time; ask for less "
        "with --accuracy-when-sure"
    )


def _before_and_after(logits: Floats, labels: NDArray[np.int64], found: float) -> dict[str, float]:
    return {
        "nll_before": nll(logits, labels, 1.0),
        "nll_after": nll(logits, labels, found),
        "ece_before": reliability(logits, labels, 1.0).error,
        "ece_after": reliability(logits, labels, found).error,
    }


def on_test(
    manifest: dict[str, Any], logits: Floats | None, labels: NDArray[np.int64]
) -> dict[str, Any] | None:
    """The same numbers for the artifact's logits on the test pictures, which T and
    threshold have not seen.
    """
    found = temperature(manifest)
    if found is None or logits is None or not np.isfinite(logits).all():
        return None
    told: dict[str, Any] = {"split": "test", "images": len(labels)} | _before_and_after(logits, labels, found)
    least = manifest[KEY]["threshold"]
    if least is not None:
        p = probabilities(logits, found)
        sure, right = p.max(1) >= least, p.argmax(1) == labels
        told |= {
            "answered": int(sure.sum()),
            "right": int((sure & right).sum()),
            "coverage": 100 * float(sure.mean()),
        }
        told["accuracy_when_answered"] = 100 * float(right[sure].mean()) if sure.any() else None
    return told


def temperature_checks(
    manifest: dict[str, Any], ref: Reference, same_data: bool
) -> Iterator[Check | Unexamined]:
    """Stage temperature: T, and how many validation pictures are answered and right, are found again from
    the run.
    """
    told = manifest[KEY]
    yield equal("temperature", "split", told["split"], "val")
    if told["digest"] != ref.data.val.digest and not same_data:
        yield Unexamined("temperature", "where T comes from: these are other pictures than the run's")
        return
    yield equal("temperature", "validation pictures", told["digest"], ref.data.val.digest)
    split, logits = ref.validation
    again = calibrate(split, logits, ref.data, float(told["target_accuracy"]))
    yield equal("temperature", "how many", told["images"], again["images"])
    t, wanted = temperature(manifest), again["temperature"]
    if t is None or wanted is None:
        yield equal("temperature", "T, found again", t, wanted)
        return
    close = at_most(
        "temperature",
        f"T = {t:g} against {wanted:g}, found again: relative difference",
        abs(t / wanted - 1),
        CLOSE,
    )
    yield close
    if close.passed:
        aside = min(nll(logits, split.labels, t * (1 - ASIDE)), nll(logits, split.labels, t * (1 + ASIDE)))
        yield at_most(
            "temperature",
            f"negative log-likelihood at T, against {100 * ASIDE:g} % aside",
            nll(logits, split.labels, t),
            aside,
        )
        yield from _threshold_checks(told, again, probabilities(logits, t), split.labels)


def _threshold_checks(
    told: dict[str, Any], again: dict[str, Any], p: Floats, labels: NDArray[np.int64]
) -> Iterator[Check]:
    if told["threshold"] is None or again["threshold"] is None:
        yield equal("temperature", "threshold, found again", told["threshold"], again["threshold"])
        return
    apart = abs(float(told["threshold"]) - again["threshold"])
    yield at_most(
        "temperature",
        f"threshold {told['threshold']:.4g} against {again['threshold']:.4g}, found again",
        apart,
        2 * ROOM,
    )
    sure, right = p.max(1) >= float(told["threshold"]), p.argmax(1) == labels
    # one picture may lie on the edge
    for name, count in (("answered", sure.sum()), ("right", (sure & right).sum())):
        yield at_most(
            "temperature",
            f"{name} from the threshold on, against the manifest's",
            abs(int(count) - told[name]),
            1,
        )
    bound = lower_bound(told["right"], told["answered"])
    yield at_least(
        "temperature", "accuracy when answered, lower bound, %", bound + 1e-6, told["target_accuracy"]
    )


def output_checks(session: Session, manifest: dict[str, Any], ref: Reference) -> Iterator[Check]:
    """T as the file applies it: the slope from centred logits to centred log-probabilities on test pictures
    is 1 / T.
    """
    wanted = temperature(manifest)
    if wanted is None:
        return
    pictures = np.ascontiguousarray(ref.images.images[:READ_BACK])
    logits, p = in_chunks(session, pictures, int(manifest["batch"]["max"]))
    yield at_most(
        "values",
        "T read back from the outputs: relative difference",
        abs(read_back(logits, p) / wanted - 1),
        CLOSE,
    )


def read_back(logits: Floats, p: Floats) -> float:
    """T from logits (N, K) and probabilities (N, K), over the classes whose probability is not tiny; NaN
    where nothing can be told.
    """
    seen = p > VISIBLE
    z, log_p = np.where(seen, logits, 0).astype(np.float64), np.log(np.where(seen, p, 1).astype(np.float64))
    count = seen.sum(1, keepdims=True).clip(1)
    z, log_p = (np.where(seen, x - x.sum(1, keepdims=True) / count, 0) for x in (z, log_p))
    slope = (z * log_p).sum() / (z**2).sum() if (z**2).sum() > 0 else np.nan
    return float(1 / slope) if slope else float("nan")


def in_one_line(manifest: dict[str, Any]) -> str:
    """What --calibrate came to, for the terminal."""
    told, tested = manifest[KEY], manifest["parity"].get("probabilities")
    if told["temperature"] is None:
        return f"probabilities are NOT calibrated: {told['reason']}."
    said = f"T = {told['temperature']:g} from {told['images']:,} validation pictures"
    if tested:
        said += (
            f"; calibration error on test {tested['ece_before']:.2f} % before, "
            f"{tested['ece_after']:.2f} % after"
        )
    if told["threshold"] is None:
        return f"{said}. NO threshold for 'not sure': {told['threshold_reason']}."
    said += f". Sure from {100 * told['threshold']:.2f} % on"
    return f"{said}{': ' + sure_answers(tested) if tested else ''}."


def sure_answers(told: dict[str, Any]) -> str:
    """How many pictures are answered, and how many of these rightly."""
    return (
        f"{told['answered']:,} of {told['images']:,} {told['split']} pictures, {told['right']:,} of "
        "them right"
    )
