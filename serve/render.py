"""Answers, and what surrounds them, as HTML. Every name that comes from a file or a visitor is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import PurePath

from lfdeploy import by_class
from lfdeploy.chance import SENTENCE
from lfdeploy.confidence import KEY, percent, temperature, threshold
from lfdeploy.familiarity import KEY as FAMILIARITY
from serve.answer import Answer
from serve.entries import Entry

SHOWN, MOST_SHOWN, FEW, HALF = 5, 100, 12, 0.5


def verbatim(html: str) -> str:
    """HTML as Markdown that says the same: in one block, whatever ends of lines its names have."""
    return "&#10;".join(html.splitlines())


def answered(found: Answer | None) -> str:
    """The place of the answer: a prompt while there is no picture, a sentence for an
    error, else the answer.
    """
    if found is None:
        return _status("empty", "<p>The answer appears here as soon as there is a picture.</p>")
    if found.error or found.entry is None:
        return _status("error", f"<h2>No answer</h2><p>{escape(found.error)}</p>")
    label, probability = found.top[0]
    more = others(found.top[SHOWN:])
    notes = "".join(f'<p class="lf-note">{escape(note[:1].upper() + note[1:])}.</p>' for note in found.notes)
    total = found.decode_ms + found.model_ms
    times = f"Answered in {total:.1f} ms: decode {found.decode_ms:.1f} ms, model {found.model_ms:.1f} ms"
    head = _head(label, probability, found) + warning(found.entry)
    rows = bars(found.top[:SHOWN])
    return _status("answer", f"{head}{notes}{rows}{more}<p class='lf-time'>{times}</p>{by(found.entry)}")


def _head(label: str, probability: float, found: Answer) -> str:
    """The label; or that the artifact is not sure of it, or that the picture is unlike all it knows, and what
    that means.
    """
    if found.unfamiliar:
        return (
            "<h2>Unlike its training pictures</h2>"
            f"<p class='lf-sure'>Closest: <b>{escape(label)}</b>, {escape(percent(probability))}</p>"
            f"<p class='lf-note'>So its answer may mean nothing.{_marked(found.entry)}</p>"
        )
    if not found.abstain or found.entry is None:
        word = "sure" if found.entry is not None and calibrated(found.entry) else "probability"
        perhaps, little = ("Perhaps ", "only ") if probability < HALF else ("", "")
        return (
            f"<h2>{perhaps}{escape(label)}</h2>"
            f"<p class='lf-sure'>{little}{escape(percent(probability))} {word}</p>"
        )
    told = found.entry.artifact.manifest[KEY]
    seen = found.entry.artifact.manifest["parity"].get("probabilities") or told
    split = "test" if seen["split"] == "test" else "validation"
    return (
        f"<h2>Not sure</h2><p class='lf-sure'>Closest: <b>{escape(label)}</b>, "
        f"{escape(percent(probability))}</p>"
        f"<p class='lf-note'>Of the {split} pictures answered with "
        f"{escape(percent(told['threshold']))} or more, "
        f"{seen['right']:,} of {seen['answered']:,} were right. This answer has less.</p>"
    )


def _marked(entry: Entry | None) -> str:
    """How many pictures of the known kind are called unlike them, as a sentence, by the artifact's own
    answers or by its network's; empty where nobody counted.
    """
    manifest = entry.artifact.manifest if entry else {}
    own, network = manifest.get("parity") or {}, manifest.get(FAMILIARITY) or {}
    counted = own.get(FAMILIARITY) or network.get("test")
    if not isinstance(counted, dict) or not counted.get("images"):
        return ""
    known = f"Of {counted['images']:,} test pictures, which are of the known kind"
    return f" {known}, {counted['images'] - counted['familiar']:,} are marked so too."


def calibrated(entry: Entry) -> bool:
    """Whether its probabilities were held against held-out pictures: only then is one of 90 % right nine
    times in ten.
    """
    manifest = entry.artifact.manifest
    return temperature(manifest) is not None or threshold(manifest) is not None


def warning(entry: Entry) -> str:
    """The line for an artifact that is no better than its most frequent class; empty for others."""
    accuracy = entry.artifact.manifest.get("accuracy")
    chance = accuracy.get("chance") if isinstance(accuracy, dict) else None
    if not isinstance(chance, dict) or chance.get("above") is not False:
        return ""
    return f"<p class='lf-warning'>This network is {SENTENCE}.</p>"


def _status(kind: str, inner: str) -> str:
    return f'<div class="lf-{kind}" role="status">{inner}</div>'


def others(rows: Sequence[tuple[str, float]]) -> str:
    """The less probable classes, folded; empty where there are none."""
    if not rows:
        return ""
    count = f"{len(rows)} less probable {'class' if len(rows) == 1 else 'classes'}"
    return (
        f'<details class="lf-rest"><summary>{count}</summary>{bars(rows[:MOST_SHOWN], "lf-tail")}</details>'
    )


def bars(rows: Sequence[tuple[str, float]], kind: str = "lf-bars") -> str:
    """Classes with their probabilities, as bars."""
    return f"<ol class='{kind}'>{''.join(_bar(name, value) for name, value in rows)}</ol>"


def _bar(name: str, value: float) -> str:
    width = f"{100 * min(1.0, max(0.0, value)):.2f}"
    return (
        f'<li><span class="lf-name" title="{escape(name)}">{escape(name)}</span>'
        f'<span class="lf-track" aria-hidden="true"><i style="width:{width}%"></i></span>'
        f'<span class="lf-value">{escape(percent(value))}</span></li>'
    )


def by(entry: Entry) -> str:
    """Which artifact answered, where, and what parity says of it."""
    where = (
        f" ({entry.predictor.session.backend} on {entry.predictor.session.device})" if entry.predictor else ""
    )
    percents = (
        "Its percentages were held against pictures that it had not learnt from."
        if calibrated(entry)
        else "Its percentages are its own: nothing was calibrated."
    )
    return (
        f"<p class='lf-by'>By <b>{escape(entry.key)}</b>{escape(where)}. {right(entry)}{percents}</p>"
        f"<p class='lf-by'>{verdict(entry)}</p>"
    )


def right(entry: Entry) -> str:
    """How many pictures it was right on, as a sentence; empty where nobody knows."""
    accuracy = entry.artifact.manifest.get("accuracy")
    if not accuracy or "top1" not in accuracy:
        return ""
    split = escape(str(accuracy["split"]))
    return f"<b>{accuracy['top1']:.1f} %</b> right on {accuracy['images']:,} {split} pictures. "


def verdict(entry: Entry) -> str:
    """The parity verdict as a badge and a sentence."""
    parity = entry.artifact.manifest["parity"]
    images = (parity.get("statistics") or {}).get("images")
    if entry.artifact.verdict == "pass":
        on = f" on {images:,} test pictures" if isinstance(images, int) else ""
        return (
            f'<span class="lf-badge lf-pass">Export verified</span> Its file answers as the trained network '
            f"did{on}."
        )
    reason = escape(str(parity.get("reason") or "").rstrip("."))
    if entry.artifact.verdict == "unverified":
        why = (
            f"Parity was not proven when it was built: {reason}."
            if reason
            else "Parity was not proven when it was built."
        )
        return f'<span class="lf-badge lf-unverified">Unverified</span> {why}'
    why = f": {reason}" if reason else ""
    badge = '<span class="lf-badge lf-fail">Parity failed</span>'
    return f"{badge} It does not answer as the training code did{why}."


def heading(entry: Entry, named: str = "") -> str:
    """Title, or the one that was ``named``, and what the page is for, for a stranger."""
    run = entry.artifact.manifest["run"]
    archs = [str(arch) for arch in run.get("archs") or ()]
    networks = f"{len(archs)} × {archs[0]}" if archs and len(set(archs)) == 1 else " + ".join(archs)
    parts = [escape(str(part)) for part in (run["name"], run.get("method"), networks) if part]
    classes = len(entry.artifact.manifest["labels"])
    return (
        f'<header class="lf-head"><h1>{escape(named or title(entry))}</h1>'
        f"<div class='lf-lead'>Show it a picture, and it says which of {classes} classes it is: "
        f"{some(entry.artifact.manifest['labels'])}. The picture goes to this server alone, "
        f"which does not keep it.</div><p class='lf-quiet'>{' · '.join(parts)}</p></header>"
    )


def some(labels: Sequence[str]) -> str:
    """The names of a few classes, as HTML; all where they are not many, the others folded."""
    names = [escape(label) for label in labels]
    if len(names) <= FEW:
        return f"{', '.join(names[:-1])} or {names[-1]}"
    rest = f"<details class='lf-all'><summary>{len(names) - SHOWN} more</summary>{', '.join(names[SHOWN:])}"
    return f"{', '.join(names[:SHOWN])} and {rest}</details>"


def title(entry: Entry) -> str:
    """The data set's name, or the run's."""
    run = entry.artifact.manifest["run"]
    return PurePath(str(run.get("data") or "")).name or str(run["name"])


def foot(entry: Entry, answer: str = "") -> str:
    """What the manifest says of the artifact's file, below an ``answer``, which may have warned already."""
    manifest = entry.artifact.manifest
    parts = [f"sha256 <code>{escape(str(manifest['sha256'])[:12])}</code>"]
    if manifest.get("bytes"):
        parts.append(f"{manifest['bytes'] / 1e6:.2f} MB")
    accuracy = manifest.get("accuracy")
    if accuracy and "top1" in accuracy:
        whose = escape(f"{accuracy['split']} pictures of {accuracy.get('data') or title(entry)}")
        parts.append(f"{accuracy['top1']:.2f} % right on {accuracy['images']:,} {whose}")
    side = f"{manifest['input']['width']} × {manifest['input']['height']}"
    parts.append(f"sees {side} pixels, the largest centred square of the picture")
    key = escape(entry.key)
    facts = " · ".join([f"<b>{key}</b>", *parts])
    warned = warning(entry)
    warned = "" if warned in answer else warned
    return f'{warned}<p class="lf-foot" data-artifact="{key}">{facts}</p>{classes(entry)}'


def classes(entry: Entry) -> str:
    """How often it is right on pictures of each class, folded; empty where nobody knows."""
    manifest = entry.artifact.manifest
    every = by_class.rows(manifest.get("accuracy"), manifest["labels"])
    found = every[:MOST_SHOWN]
    if not found:
        return ""
    left = len(every) - len(found)
    rest = f"<p>{left:,} classes that are recognised better are left out.</p>" if left else ""
    rows = "".join(
        f'<li><span class="lf-name" title="{escape(one.name)}">{escape(one.name)}</span>'
        f'<span class="lf-track" aria-hidden="true"><i style="width:{one.recall:.2f}%"></i></span>'
        f'<span class="lf-value">{one.recall:.0f} % of {one.images:,}</span>'
        f'<span class="lf-taken">{_taken(one)}</span></li>'
        for one in found
    )
    return (
        "<details class='lf-rest' id='classes'><summary>How often it is right, class by class</summary>"
        f"<ol class='lf-tail lf-classes'>{rows}</ol>{rest}</details>"
    )


def _taken(one: by_class.OfClass) -> str:
    return f"{one.mistaken:,} taken for {escape(one.taken_for)}" if one.taken_for else ""
