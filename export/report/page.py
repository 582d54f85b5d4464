"""report.html: the proof of an artifact as a page that needs nothing else: verdict, plots, worst pictures,
every check.
"""

from __future__ import annotations

import base64
import html
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.numbers.statistics import Floats, log_softmax
from export.report.reliability import diagram
from lfdeploy.chance import SENTENCE
from lfdeploy.confidence import temperature
from lfdeploy.data import Split
from lfdeploy.images import Pixels

SHOWN = 8  # worst pictures, and classes of lowest agreement
STYLE = """
:root { color-scheme: light dark; --ink: #1c2733; --soft: #5c6b7a; --line: #d9e0e7; --page: #fff;
  --card: #f5f7f9; --bar: #3d7ea6;
  --good: #1a7f4b; --bad: #b3261e; --wait: #8a5a00 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6ebf0; --soft: #9aa8b5; --line: #35414d;
  --page: #14191f; --card: #1d242c;
  --bar: #6fb1d8; --good: #5cc98d; --bad: #ff8a80; --wait: #f0b95a } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem }
p { margin: .4rem 0 } .soft { color: var(--soft) }
.verdict { border-left: .4rem solid var(--tone); background: var(--card); padding: .8rem 1rem;
  border-radius: .3rem }
.verdict + .verdict { margin-top: .6rem }
.verdict b { color: var(--tone) } .pass { --tone: var(--good) } .fail { --tone: var(--bad) }
.unverified { --tone: var(--wait) }
table { border-collapse: collapse; width: 100%; font-size: .9rem } td, th { text-align: left;
  padding: .25rem .6rem .25rem 0;
  border-bottom: 1px solid var(--line) } th { color: var(--soft); font-weight: 500 }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.no { color: var(--bad); font-weight: 600 }
.scroll { overflow-x: auto } .worst { display: grid;
  grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: .8rem }
.worst figure { margin: 0; background: var(--card); border-radius: .3rem; padding: .6rem; font-size: .85rem }
.worst img { width: 100%; max-height: 9rem; object-fit: contain; image-rendering: pixelated }
svg { width: 100%; height: auto }
svg text { fill: var(--soft); font-size: 12px } svg rect { fill: var(--bar) } svg line { stroke: var(--soft) }
"""


def page(
    manifest: dict[str, Any], report: dict[str, Any], split: Split, reference: Floats, logits: Floats | None
) -> str:
    """The page for a manifest, its parity document, and the logits (N, K) of both sides on the split; None
    where none were computed.
    """
    name = f"{manifest['target']}, {manifest['format']} {manifest['precision']}"
    run = manifest["run"]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>Parity of {_text(name)}</title><style>{STYLE}</style>",
        f"<h1>{_text(name)}</h1>",
        (
            f"<p class=soft>{_text(run['method'])}, {_text(' + '.join(run['archs']))}, trained on "
            f"{_text(run['data'])}</p>"
        ),
        f"<div class='verdict {report['verdict']}'>{verdict(report)}</div>",
    ]
    chance = report.get("chance") or {}  # the manifest has it only when it is published
    if chance.get("above") is False:
        parts.append(
            f"<div class='verdict fail'><p><b>The network itself is {SENTENCE}</b> "
            f"({chance['majority']:.2f}&nbsp;%). The file answers as it does.</p></div>"
        )
    if logits is not None and np.isfinite(logits).all():
        parts += [
            _histogram(reference, logits, report),
            _classes(manifest["labels"], reference, logits, split.labels),
        ]
        parts += [diagram(manifest, logits, split.labels)]
        parts += [_worst(manifest["labels"], split, reference, logits, temperature(manifest) or 1.0)]
    parts += [_chain(report), _checks(report)]
    return "\n".join(parts) + "\n"


def verdict(report: dict[str, Any]) -> str:
    """What was found, in sentences for whoever decides: HTML."""
    found = report["statistics"]
    head = {
        "pass": "<b>Pass.</b> This file answers as the trained network does.",
        "fail": "<b>Fail.</b> This file does not answer as the trained network does. Do not ship it.",
        "unverified": "<b>Not verified.</b> The file was built; its proof is not complete.",
    }[report["verdict"]]
    lines = [f"<p>{head}</p>"]
    if found:
        same = found["images"] - found["flips"]
        lines.append(
            f"<p>On {found['images']:,} test pictures it gave the same label for {same:,} "
            f"({found['agreement']:.2f} %). It got "
            f"{found['top1']:.2f} % right, the trained network {found['top1_reference']:.2f} %: a change of "
            f"{found['top1'] - found['top1_reference']:+.2f} points, between {found['ci_low']:+.2f} "
            f"and {found['ci_high']:+.2f} with 95 % "
            "confidence.</p>"
        )
    if report.get("members"):
        cells = [
            (name, found["top1"], found["top1_reference"], found["flips"])
            for name, found in report["members"].items()
        ]
        rows = "".join(
            f"<tr><td>{name}<td class=n>{a:.2f} %<td class=n>{b:.2f} %<td class=n>{flips:,}"
            for name, a, b, flips in cells
        )
        head = "<tr><th>output<th class=n>right<th class=n>its network<th class=n>other labels"
        lines.append(f"<div class=scroll><table>{head}{rows}</table></div>")
    if report["reason"]:
        lines.append(f"<p>{_text(report['reason'][:1].upper() + report['reason'][1:])}.</p>")
    return "".join(
        [*lines, f"<p class=soft>Examined: {_text(report['subject'])}, against the fp32 PyTorch module.</p>"]
    )


def _histogram(reference: Floats, logits: Floats, report: dict[str, Any]) -> str:
    """How far each picture's answer is from the module's, on a logarithmic axis, with the bound."""
    scale = float(np.abs(reference).max()) or 1.0
    apart = np.log10(np.maximum(np.abs(logits.astype(np.float64) - reference).max(1) / scale, 1e-9))
    bounds = [c["bound"] for c in report["checks"] if c["name"] == "largest difference / scale"]
    edge = float(np.log10(bounds[0])) if bounds else float(apart.max())
    low, high = np.floor(min(apart.min(), edge)), np.ceil(max(apart.max(), edge, apart.min() + 1e-9))
    counts, _ = np.histogram(apart, bins=48, range=(low, high))
    width, height, floor = 720, 200, 170
    step = width / len(counts)
    bars = [
        f"<rect x='{i * step + 1:.1f}' y='{floor - tall:.1f}' width='{step - 2:.1f}' height='{tall:.1f}'/>"
        for i, tall in enumerate(150 * counts / counts.max())
        if tall
    ]
    ticks = []
    for t in np.arange(low, high + 1):
        anchor = "start" if t == low else "end" if t == high else "middle"
        ticks.append(
            f"<text x='{(t - low) / (high - low) * width:.0f}' y='190' "
            f"text-anchor='{anchor}'>1e{int(t)}</text>"
        )
    at = (edge - low) / (high - low) * width
    side = "end" if at > width / 2 else "start"
    mark = f"<line x1='{at:.0f}' x2='{at:.0f}' y1='8' y2='{floor}' stroke-dasharray='4 3'/>" if bounds else ""
    word = (
        f"<text x='{at + (-5 if side == 'end' else 5):.0f}' y='18' text-anchor='{side}'>bound</text>"
        if bounds
        else ""
    )
    return (
        "<h2>How far each picture's answer is from the network's</h2><p class=soft>Largest difference "
        "of a picture's logits, divided by "
        f"the largest logit of all. {len(apart):,} pictures.</p><svg viewBox='0 0 {width} {height}' "
        f"role=img>{''.join(bars)}"
        f"<line x1=0 x2={width} y1={floor} y2={floor} />{mark}{word}{''.join(ticks)}</svg>"
    )


def _classes(names: list[str], reference: Floats, logits: Floats, labels: NDArray[np.int64]) -> str:
    top_r, top_s = reference.argmax(1), logits.argmax(1)
    rows = []
    for k in np.unique(top_r):
        mine = top_r == k
        right = labels == k
        change = 100 * float((top_s[right] == k).mean() - (top_r[right] == k).mean()) if right.any() else 0.0
        rows.append((100 * float((top_s[mine] == k).mean()), int(mine.sum()), names[k], change))
    rows.sort()
    if rows[0][0] == 100:
        one = f"the one class ({_text(names[top_r[0]])})"
        which = f"all {len(rows)} classes" if len(rows) > 1 else one
        return f"<h2>Classes</h2><p>In {which} that the network names, the file gives the same label.</p>"
    cells = [
        f"<tr><td>{_text(n)}<td class=n>{count:,}<td class=n>{a:.2f} %<td class=n>{change:+.2f}"
        for a, count, n, change in rows[:SHOWN]
    ]
    return (
        "<h2>Classes that agree least</h2><div class=scroll><table><tr><th>the network says<th "
        "class=n>pictures<th class=n>the file agrees"
        f"<th class=n>change of the class's accuracy, points</tr>{''.join(cells)}</table></div>"
    )


def _worst(names: list[str], split: Split, reference: Floats, logits: Floats, t: float) -> str:
    """Pictures whose label changed, those of the largest margin first; then those with the
    largest difference.
    """
    top_r, top_s = reference.argmax(1), logits.argmax(1)
    two = np.partition(reference, -2, axis=1)[:, -2:]
    flipped = top_r != top_s
    order = np.lexsort((-np.abs(logits - reference).max(1), -(two[:, 1] - two[:, 0]) * flipped, ~flipped))[
        :SHOWN
    ]
    p_r, p_s = (np.exp(log_softmax(side[order] / t)) for side in (reference, logits))
    pictures = split.images[order]
    figures = []
    for row, i in enumerate(order):
        word = "<span class=no>another label</span>" if flipped[i] else "network and file agree"
        figures.append(
            f"<figure><img alt='' src='{_picture(pictures[row])}'><figcaption>"
            f"network: {_text(names[top_r[i]])} {100 * p_r[row, top_r[i]]:.1f} %<br>"
            f"file: {_text(names[top_s[i]])} {100 * p_s[row, top_s[i]]:.1f} %<br>"
            f"<span class=soft>truth: {_text(names[split.labels[i]])};</span> {word}</figcaption></figure>"
        )
    return f"<h2>The worst pictures</h2><div class=worst>{''.join(figures)}</div>"


def _picture(pixels: Pixels) -> str:
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((160, 160))
    blob = io.BytesIO()
    image.save(blob, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(blob.getvalue()).decode()


def _chain(report: dict[str, Any]) -> str:
    rows = []
    for link in report.get("chain", ()):
        if link["flips"] is None:
            told = f"<td colspan=2 class=soft>{_text(link['said'])}"
        else:
            apart = "not finite" if link["difference"] is None else f"{link['difference']:.1e}"
            told = f"<td class=n>{apart}<td class=n>{link['flips']}"
        rows.append(f"<tr><td>{_text(link['step'])}<td>{_text(link['what'])}{told}")
    if not rows:
        return ""
    return (
        "<h2>Where the answers moved</h2><p class=soft>Each step against the one before it, on a few "
        "test pictures.</p><div class=scroll>"
        "<table><tr><th>step<th>what<th class=n>largest difference / scale<th class=n>labels "
        f"changed</tr>{''.join(rows)}</table></div>"
    )


def _checks(report: dict[str, Any]) -> str:
    rows = []
    for check in report["checks"]:
        value, bound = (v if isinstance(v, str) else f"{v:.3g}" for v in (check["value"], check["bound"]))
        word = "ok" if check["passed"] else "<span class=no>failed</span>"
        numbers = f"<td class=n>{_short(value)}<td class=n>{_short(bound)}"
        rows.append(f"<tr><td>{_text(check['stage'])}<td>{_text(check['name'])}{numbers}<td>{word}")
    for one in report.get("not_examined", ()):
        rows.append(
            f"<tr><td>{_text(one['stage'])}<td colspan=3 class=soft>not examined: {_text(one['reason'])}<td>"
        )
    return (
        "<h2>Every check</h2><div class=scroll><table><tr><th>stage<th>check<th class=n>value<th "
        "class=n>bound<th></tr>"
        f"{''.join(rows)}</table></div>"
    )


def _short(value: str) -> str:
    return _text(value if len(value) <= 32 else value[:29] + "...")


def _text(value: str) -> str:
    return html.escape(value)
