"""How calibrated an artifact is, for people: the reliability diagram of report.html, and the model
card's section.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.numbers.statistics import Floats
from export.numbers.temperature import BINS, Bins, reliability
from lfdeploy.confidence import KEY, temperature, threshold

SIDE, LEFT, TOP = 260, 64, 12  # of the plot, in the picture's units
STYLE = """
.reliability { max-width: 40rem; min-width: 30rem } .reliability circle { fill: var(--bar) }
.reliability .whisker { stroke: var(--bar); stroke-width: 1.5 }
.reliability .before { fill: none; stroke: var(--bad); stroke-width: 1.5 }
.reliability .axis { stroke: var(--line) }
.reliability .name { fill: var(--ink); font-size: 13px }
"""


def diagram(manifest: dict[str, Any], logits: Floats, labels: NDArray[np.int64]) -> str:
    """The section of report.html on the artifact's test logits (N, K); empty for one
    without a temperature.
    """
    t = temperature(manifest)
    if t is None:
        return ""
    before, after = reliability(logits, labels, 1.0), reliability(logits, labels, t)
    return (
        "<h2>Whether its probabilities mean what they say</h2><p class=soft>Each point is one of "
        f"{len(after.count)} groups of equally many test pictures, by rising probability of the "
        "answer: how sure the answers are, and how "
        "many are right. On the diagonal, answers given with 90 % are right 90 % of the "
        f"time.</p><style>{STYLE}</style>"
        f"{_plot(before, after, t, threshold(manifest))}"
    )


def _plot(before: Bins, after: Bins, t: float, least: float | None) -> str:
    low = min(float(np.concatenate([b.confidence, b.accuracy]).min()) for b in (before, after))
    step = 0.02 if low > 0.9 else 0.1 if low > 0.5 else 0.2
    low = 1 - max(math.ceil((1 - low) / step), 2) * step
    parts = []
    for value in np.arange(1, low - 1e-9, -step):
        x, y, word = _x(value, low), _y(value, low), f"{100 * value:.3g} %"
        parts += [
            f"<line class=axis x1='{LEFT}' x2='{LEFT + SIDE}' y1='{y:.1f}' y2='{y:.1f}'/>",
            f"<line class=axis y1='{TOP}' y2='{TOP + SIDE}' x1='{x:.1f}' x2='{x:.1f}'/>",
            f"<text x='{LEFT - 6}' y='{y + 4:.1f}' text-anchor='end'>{word}</text>",
            f"<text x='{x:.1f}' y='{TOP + SIDE + 18}' text-anchor='middle'>{word}</text>",
        ]
    parts.append(
        f"<line x1='{_x(low, low)}' y1='{_y(low, low)}' x2='{_x(1, low)}' y2='{_y(1, low)}' "
        "stroke-dasharray='4 3'/>"
    )
    if least is not None and least > low:
        x = _x(min(least, 1.0), low)
        parts.append(f"<line x1='{x:.1f}' x2='{x:.1f}' y1='{TOP}' y2='{TOP + SIDE}'/>")
    for x, y, count in zip(after.confidence, after.accuracy, after.count, strict=True):
        ends = (f"y{i}='{_y(max(end, low), low):.1f}'" for i, end in enumerate(_interval(y, int(count)), 1))
        parts.append(f"<line class=whisker x1='{_x(x, low):.1f}' x2='{_x(x, low):.1f}' {' '.join(ends)}/>")
    parts += [
        f"<circle class=before cx='{_x(x, low):.1f}' cy='{_y(y, low):.1f}' r='5'/>"
        for x, y in zip(before.confidence, before.accuracy, strict=True)
    ]
    parts += [
        f"<circle cx='{_x(x, low):.1f}' cy='{_y(y, low):.1f}' r='4'/>"
        for x, y in zip(after.confidence, after.accuracy, strict=True)
    ]
    inner = "".join([*parts, *_legend(before, after, t, least)])
    return f"<div class=scroll><svg class=reliability viewBox='0 0 620 320' role=img>{inner}</svg></div>"


def _legend(before: Bins, after: Bins, t: float, least: float | None) -> list[str]:
    x = LEFT + SIDE + 40
    rows = [
        (
            f"<circle cx='{x}' cy='{{y}}' r='4'/>",
            f"T = {t:g}: calibration error {after.error:.2f} %",
            "bars: each group's 95 % interval",
        ),
        (
            f"<circle class=before cx='{x}' cy='{{y}}' r='5'/>",
            f"without T: calibration error {before.error:.2f} %",
            "",
        ),
        (
            f"<line x1='{x - 8}' x2='{x + 8}' y1='{{y}}' y2='{{y}}' stroke-dasharray='4 3'/>",
            "right as often as it says",
            "",
        ),
    ]
    if least is not None:
        rows.append(
            (
                f"<line x1='{x}' x2='{x}' y1='{{y0}}' y2='{{y1}}'/>",
                f"sure from {100 * least:.2f} % on",
                "left of it: not sure",
            )
        )
    made = [
        f"<text x='{LEFT + SIDE / 2}' y='{TOP + SIDE + 38}' text-anchor='middle'>probability of the "
        "answers</text>"
    ]
    middle = TOP + SIDE / 2
    made.append(
        f"<text x='12' y='{middle}' text-anchor='middle' transform='rotate(-90 12 {middle})'>answers "
        "that are right</text>"
    )
    y = TOP + 24
    for mark, name, more in rows:
        made += [
            mark.format(y=y, y0=y - 9, y1=y + 9),
            f"<text class=name x='{x + 18}' y='{y + 4}'>{name}</text>",
        ]
        if more:
            made.append(f"<text x='{x + 18}' y='{y + 22}'>{more}</text>")
        y += 56 if more else 34
    return made


def _x(value: float, low: float) -> float:
    return LEFT + SIDE * (value - low) / (1 - low)


def _y(value: float, low: float) -> float:
    return TOP + SIDE * (1 - value) / (1 - low)


def _interval(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of n."""
    z = 1.96
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return middle - half, min(1.0, middle + half)


def card_section(manifest: dict[str, Any]) -> list[str]:
    """The model card's lines on probabilities; none for an artifact that was not to be calibrated."""
    told = manifest.get(KEY)
    if told is None:
        return []
    lines = ["## Probabilities", ""]
    if told["temperature"] is None:
        return [*lines, f"Not calibrated: {told['reason']}. `probabilities` are softmax(`logits`).", ""]
    tested = manifest["parity"].get("probabilities")
    text = (
        f"`probabilities` = softmax(`logits` / {told['temperature']:g}), computed in the file; "
        "`logits` are the network's own. This "
        f"temperature makes the labels of {told['images']:,} validation pictures most likely: the aim "
        "is that answers given with 90 % are "
        "right 90 % of the time."
    )
    if tested:
        text += (
            f" On the {tested['images']:,} test pictures, which had no part in it, the expected "
            f"calibration error ({BINS} bins of equal "
            f"mass) is {tested['ece_before']:.2f} % without the temperature and "
            f"{tested['ece_after']:.2f} % with it, the negative "
            f"log-likelihood {tested['nll_before']:.4f} and {tested['nll_after']:.4f}."
        )
    lines += [text, ""]
    if told["threshold"] is None:
        return [*lines, f'There is no threshold for "not sure": {told["threshold_reason"]}.', ""]
    text = (
        f"**Not sure:** take an answer whose highest probability is below **{told['threshold']:.6g}** as "
        '"not sure". It was chosen so that '
        f"answers from there on are right {told['target_accuracy']:g} % of the time: on the validation "
        f"pictures {_counts(told)}, which is "
        f"{told['accuracy_lower_bound']:.2f} % or more with 95 % confidence (Clopper-Pearson, one-sided)."
    )
    if tested:
        held = (
            ""
            if (tested["accuracy_when_answered"] or 0) >= told["target_accuracy"]
            else f", less than the {told['target_accuracy']:g} % asked for"
        )
        text += f" Measured afterwards on the test pictures: {_counts(tested)}{held}."
    return [
        *lines, text, "",
        "Both are in `manifest.json` and in the file's metadata, under `probability_calibration`. For "
        "pictures unlike those it was "
        "trained on, neither holds: a network can be sure of nonsense.", "",
        "```python", f"sure = probabilities.max(1) >= {told['threshold']!r}", "```", "",
    ]  # fmt: skip


def _counts(told: dict[str, Any]) -> str:
    share = told["accuracy_when_answered"]
    right = f", {told['right']:,} of these ({share:.2f} %) are right" if share is not None else ""
    return f"{told['answered']:,} of {told['images']:,} ({told['coverage']:.1f} %) are answered{right}"
