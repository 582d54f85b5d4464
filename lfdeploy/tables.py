"""How results are shown to a person: one table per command, on standard output."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lfdeploy import by_class
from lfdeploy.chance import warning
from lfdeploy.config import flags_of
from lfdeploy.console import say, table
from lfdeploy.models.targets import FUSED, MEAN, Layout, layout_of, top1_of
from lfdeploy.run import shown, typed

if TYPE_CHECKING:
    from lfdeploy.artifact import Artifact
    from lfdeploy.run import Run


def trained(run: Run) -> None:
    """Accuracy of every node on the test split, for the kept epoch and the last."""
    summary = run.read("summary.json")
    test, last = summary["test"], summary["test_last"]
    layout, kept, final = layout_of(run.spec), _all_of(test), _all_of(last)
    rows = [(_named(name, layout), value, final[name]) for name, value in kept.items()]
    columns = ["", f"kept epoch {summary['kept_epoch']}", f"last epoch {summary['epochs']}"]
    title = f"Top-1 on {summary['data']['test']:,} test pictures, %"
    table(title, columns, [[name, f"{a:.2f}", f"{b:.2f}"] for name, a, b in rows])
    if "macro_f1" in test:
        say(by_class.told(test, layout.ships[0], run.spec["classes"]))
    drawn = [name for name in ("curves.png", "confusion.png") if (run.path / name).exists()]
    places = f"; see {' and '.join(drawn)} in {shown(run.path)}" if drawn else ""
    say(f"{summary['images_per_second']:,.0f} images/s on {summary['device']}{places}")
    if told := warning(list(summary["chance"]), list(summary["chance"].values())):
        say(told)
    which = "" if run.path.resolve() == Path("runs", run.name).resolve() else f"{typed(run.path)} "
    say(f"Next: lfdeploy export {which}{flags_of(layout.ships[0])} --format onnx")


def _all_of(scores: dict[str, Any]) -> dict[str, float]:
    """Top-1 by node: targets, the mean of probabilities, training-only nodes."""
    targets = top1_of(scores)
    named = (
        targets if "top1" in scores else targets | {f"aux{i}": value for i, value in enumerate(scores["aux"])}
    )
    rows: dict[str, float] = {}
    for name, value in named.items():
        rows[name] = value
        if name == "ensemble":
            rows["ensemble_probs"] = scores["ensemble_probs"]
    return rows


def _named(name: str, layout: Layout) -> str:
    if name == "ensemble_probs":
        return "ensemble (mean of probabilities)"
    if name not in layout.targets:
        return f"{name} (training only)"
    row = layout[name]
    if row.kind == MEAN:
        return f"{name} (mean of logits)"
    return name if row.kind == FUSED else f"{name} ({layout.archs(name)[0]})"


def evaluated(document: dict[str, Any]) -> None:
    """Accuracy by node."""
    whose = document.get("whose", document["split"])
    title = (
        f"{document['name']}: {document['images']:,} pictures of {whose}, {document['backend']} on "
        f"{document['device']}"
    )
    table(
        title,
        ["", "top-1 %", "right", "macro-F1", "balanced %"],
        [
            [n, f"{r['top1']:.2f}", f"{r['correct']:,}", f"{r['macro_f1']:.2f}", f"{r['balanced']:.2f}"]
            for n, r in document["nodes"].items()
        ],
    )
    nodes = document["nodes"]
    if told := warning(list(nodes), [row["chance"] for row in nodes.values()]):
        say(told)
    fresh = document.get("not_trained_on")
    if fresh and fresh["images"]:
        title = f"{document['name']}: the {fresh['images']:,} pictures of these that were not trained on"
        table(
            title,
            ["", "top-1 %", "right"],
            [[n, f"{r['top1']:.2f}", f"{r['correct']:,}"] for n, r in fresh["nodes"].items()],
        )


def exported(artifacts: Sequence[Artifact]) -> None:
    """What was made, and what is known of it."""
    rows = []
    for a in artifacts:
        accuracy, found = a.manifest.get("accuracy"), a.manifest["parity"].get("statistics")
        top1 = f"{accuracy['top1']:.2f}" if accuracy else "-"
        apart = f"{found['max_difference']:.1e}" if found else "-"
        rows.append([a.name, f"{a.manifest['bytes'] / 1e6:.2f}", top1, apart, a.verdict])
    columns = ["artifact", "size MB", "top-1 %", "largest difference / scale", "parity"]
    speeds = [a.manifest.get("speedup_over_fp32") or {} for a in artifacts]
    if any(speeds):
        columns.append("speed against fp32")
        for row, speed in zip(rows, speeds, strict=True):
            ratios = [f"{one['ratio']:.2f}x at batch {batch}" for batch, one in speed.items()]
            row.append(", ".join(ratios) or "-")
    table("", columns, rows)
    for a, speed in zip(artifacts, speeds, strict=True):
        if speed and max(one["ratio"] for one in speed.values()) < 1:
            where = f"slower than fp32 on this CPU ({a.manifest['cpu']})"
            say(f"{a.name}: {where}; published for its size and for other CPUs.")
        reasons: dict[str, list[str]] = {}
        for one in a.manifest["parity"].get("not_examined", ()):
            reasons.setdefault(one["reason"], []).append(one["stage"])
        for reason, stages in reasons.items():
            say(f"{a.name}: stage{'s' * (len(stages) > 1)} {', '.join(stages)}: not examined: {reason}.")
        if a.manifest["accuracy"] and (told := warning([a.name], [a.manifest["accuracy"]["chance"]])):
            say(told)
        if a.verdict == "unverified":
            if "engine" in a.manifest or a.manifest["precision"] == "bf16":
                what = "it" if a.manifest["format"] == "onnx" else "the ONNX file it was built from"
                done = f"{what} passed every check that can be made here. On a machine with the GPU"
                say(f"{a.name}: {done}: lfdeploy verify {typed(a.path)}")
            say(f"{a.name}: built, UNVERIFIED: {a.manifest['parity']['reason']}.")
        else:
            accuracy = a.manifest["accuracy"]
            whose = f"pictures of {accuracy['data']}" if "data" in accuracy else "test pictures"
            say(f"{a.name}: parity PASSED on {accuracy['images']:,} {whose}: {shown(a.path)}")


def verified(name: str, report: Any) -> None:
    """Every check with its number and bound."""
    cells = [
        [c.stage, c.name, _cell(c.value), _cell(c.bound), "ok" if c.passed else "FAILED"]
        for c in report.checks
    ]
    cells += [[one.stage, f"not examined: {one.reason}", "", "", ""] for one in report.not_examined]
    table(f"{name}: {report.subject}", ["stage", "check", "value", "bound", ""], cells, left=2)
    said = {"pass": "parity PASSED.", "unverified": f"UNVERIFIED: {report.reason}.", "fail": "parity FAILED."}
    say(f"{name}: {said[report.verdict]}")


def _cell(value: float | str) -> str:
    text = value if isinstance(value, str) else f"{value:.3g}"
    return text if len(text) <= 28 else text[:25] + "..."


def bisected(document: dict[str, Any]) -> None:
    """The layers around the first difference, or the worst, or the last ones; then the finding in
    one sentence.
    """
    rows, first = document["layers"], document["first"]
    columns = {"difference": "difference", "own": "of its own", "rounding": f"{document['precision']} itself"}
    if document["quantized"]:
        columns = {"sqnr_db": "SQNR dB", "own_sqnr_db": "of its own", "weights_sqnr_db": "of its weights"}
        worst = sorted((r for r in rows if r.get("own_sqnr_db") is not None), key=lambda r: r["own_sqnr_db"])[
            :8
        ]
        chosen = [row for row in rows if row in worst]
    else:
        middle = (first or {}).get("row", len(rows))
        chosen = rows[max(0, middle - 4) : middle + 4]
    if document["ran"]:
        kept = {key: text for key, text in columns.items() if any(key in row for row in chosen)}
        cells = [
            [
                str(row["node"] if row["node"] is not None else ""),
                row["op"],
                row["layer"],
                *(_share(row.get(key), key) for key in kept),
            ]
            for row in chosen
        ]
        table(
            f"{document['artifact']}: {document['file']} against its module",
            ["node", "op", "layer", *kept.values()],
            cells,
            left=3,
        )
    for note in document["notes"]:
        say(f"Note: {note}.")
    for fault in document["others"][:3]:
        say(f"Also: {fault['op']}, {fault['layer']}: {'; '.join(fault['what'][:2])}.")
    if document["rounding"]:
        found = document["rounding"]
        told = (
            f"{document['precision']} by itself moves a tensor of this network by up to "
            f"{found['largest'] or 0:.1e} of its scale"
        )
        overflow = (
            f"{document['precision']} itself overflows first at {found['overflows']}: use --precision fp32"
        )
        say((overflow if found["overflows"] else f"{told} (at {found['at']})") + ".")
    say(document["sentence"])


def _share(value: float | None, key: str) -> str:
    return "-" if value is None else f"{value:.1f}" if key.endswith("db") else f"{value:.1e}"


def training_speed(document: dict[str, Any]) -> None:
    """Steps per loop and their ratios to the plain one."""
    what = f"{document['peers']} x {document['arch']}, {document['method']}, batch {document['batch']}"
    title = f"Training {what}, on {document['device']}"
    plain = "DataLoader" in document["rows"][0]["loop"]
    rows = [
        [r["loop"], f"{r['ms']:.0f}", f"{r['images_per_second']:,.0f}", f"{r['ratio']:.2f}x"]
        for r in document["rows"]
    ]
    if not plain:  # what each costs, rather than how fast it is
        for row, r in zip(rows, document["rows"], strict=True):
            row[-1] = f"{r['cost']:.2f}x"
    table(title, ["loop", "ms/step", "images/s", "speed" if plain else "time"], rows)
    for note in document["notes"]:
        say(note)


def compared(document: dict[str, Any]) -> None:
    """A line for every method; what is to be known beside it; where the files are."""
    table(document["heading"], document["table"]["columns"], document["table"]["rows"], tight=True)
    say(document["legend"])
    for remark in document["remarks"]:
        say(f"Note: {remark}")
    say(f"See {document['files']['plot']} and {document['files']['markdown']}")
