"""Two artifacts on the same picture: do they agree, how far are they apart, which is faster?"""

from __future__ import annotations

from html import escape

from serve.answer import Answer
from serve.render import bars, percent

CLOSE = 0.0005  # a difference that rounds to 0.0 points
SHOWN = 3


def compared(first: Answer | None, second: Answer | None) -> str:
    """What the second says beside the first, as HTML; empty where there is nothing to compare."""
    if first is None or second is None or first.error or not first.top:
        return ""
    if second.error or second.entry is None or first.entry is None:
        return f'<div class="lf-compare"><p>{escape(second.error)}</p></div>'
    label, probability = second.top[0]
    same = label == first.top[0][0]
    head = "They agree." if same else f"They disagree: {escape(first.top[0][0])} or {escape(label)}."
    differences = differences_of(first, second)
    facts = [differences, speeds(first, second)]
    rows = bars(second.top[:SHOWN])
    return (
        f'<div class="lf-compare" role="status"><h3>{head}</h3>'
        f"<p><b>{escape(second.entry.key)}</b>: {escape(label)}, {escape(percent(probability))}</p>{rows}"
        f'<p class="lf-time">{" ".join(facts)}</p></div>'
    )


def differences_of(first: Answer, second: Answer) -> str:
    """The class whose probability differs most, in points; or that the two have other classes."""
    one, other = dict(first.top), dict(second.top)
    if one.keys() != other.keys():
        return "They have other classes."
    most = max(one, key=lambda label: abs(one[label] - other[label]))
    far = abs(one[most] - other[most])
    if far < CLOSE:
        return "No class differs by 0.1 points."
    return f"Largest difference: {100 * far:.1f} points, at {escape(most)}."


def quicker(one: Answer, again: Answer | None) -> Answer:
    """The same answer, with the times of the quicker of two runs."""
    return again if again is not None and not again.error and again.model_ms < one.model_ms else one


def speeds(first: Answer, second: Answer) -> str:
    """The model's times beside each other: of this one picture, so no more than a hint."""
    if min(first.model_ms, second.model_ms) <= 0:
        return ""
    times = first.model_ms / second.model_ms
    word = f"{times:.1f} times as fast" if times >= 1 else f"{1 / times:.1f} times as slow"
    return f"{word.capitalize()} on this picture ({second.model_ms:.1f} ms against {first.model_ms:.1f} ms)."
