"""Two artifacts on the same picture: do they agree, how far are they apart, how long did each take?"""

from __future__ import annotations

from html import escape

from lfdeploy.confidence import percent
from serve.answer import Answer
from serve.render import bars

#: From here on one is called faster: of so few runs less may be chance.
CLEAR = 1.5
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
    facts = [differences, oddness(first, second), speeds(first, second)]
    rows = bars(second.top[:SHOWN])
    return (
        f'<div class="lf-compare" role="status" data-other="{escape(second.entry.key)}"><h3>{head}</h3>'
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


def oddness(first: Answer, second: Answer) -> str:
    """Which of them calls the picture unlike those it was trained on, or is not sure; empty where neither."""
    said = []
    for each in (first, second):
        if each.entry is not None and (each.unfamiliar or each.abstain):
            word = "calls it unlike its training pictures" if each.unfamiliar else "is not sure"
            said.append(f"{escape(each.entry.key)} {word}.")
    return " ".join(said)


def itself(key: str) -> str:
    """In place of a comparison of an artifact with itself."""
    return (
        f'<div class="lf-compare" role="status"><p>{escape(key)} is the one that answers. Choose another one '
        "to compare it with.</p></div>"
    )


def quicker(one: Answer, again: Answer | None) -> Answer:
    """The same answer, with the times of the quicker of two runs."""
    return again if again is not None and not again.error and again.model_ms < one.model_ms else one


def speeds(first: Answer, second: Answer) -> str:
    """The model's times beside each other: of this one picture, so no more than a hint."""
    if min(first.model_ms, second.model_ms) <= 0:
        return ""
    assert first.entry is not None and second.entry is not None
    slow, fast = (first, second) if first.model_ms > second.model_ms else (second, first)
    keys = escape(first.entry.key), escape(second.entry.key)
    took = f"{keys[0]} {first.model_ms:.1f} ms, {keys[1]} {second.model_ms:.1f} ms"
    if slow.model_ms < CLEAR * fast.model_ms:
        return f"About as fast, of two runs each: {took}."
    assert fast.entry is not None
    times = slow.model_ms / fast.model_ms
    return f"{escape(fast.entry.key)} is {times:.1f} times as fast, of two runs each: {took}."
