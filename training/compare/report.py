"""A comparison as a document, as Markdown and as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lfdeploy.errors import UsageError
from lfdeploy.run import shown, write_bytes, write_json
from training.compare.plot import draw
from training.compare.statistics import ROLES, Cell, Difference, Row
from training.plots import attempt

COLUMNS = (
    "method",
    "peers",
    "difference",
    "fused",
    "difference",
    "ensemble",
    "difference",
    "time",
    "parameters",
)


ENDS = {"json": ".json", "markdown": ".md", "plot": ".png"}


def document_of(
    rows: Sequence[Row], remarks: Sequence[str], lines: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """What is written as JSON: rows, in what else the runs differ, and what they have in common."""
    first = lines[0]
    document = {
        "against": next(row.label for row in rows if row.base),
        "data": first["data"] | {"seeds": sorted({line["seed"] for line in lines})},
        "epochs": sorted({line["settings"]["epochs"] for line in lines}),
        "recipe": first["settings"]["recipe"],
        "archs": first["archs"],
        "machine": {key: _all(lines, key) for key in ("device", "gpu", "cpu", "threads")} | first["versions"],
        "rows": [asdict(row) for row in rows],
        "remarks": list(remarks),
        "table": {"columns": list(COLUMNS), "rows": [_texts(row) for row in rows]},
    }
    return document | {"heading": _heading(document), "legend": _legend(document)}


def _texts(row: Row) -> list[str]:
    texts = [row.label]
    for role in ROLES:
        cell = row.cells.get(role)
        texts += [_value(cell), _difference(cell.difference if cell else None)]
    return [*texts, f"{row.time_ratio:.2f}x", f"{row.parameters:,}"]


def _value(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    return f"{cell.mean:.2f}" + ("" if cell.deviation is None else f" ± {cell.deviation:.2f}")


def _difference(found: Difference | None) -> str:
    """As in ``+0.52 ± 0.41 *``: half of the interval, and a star where that leaves out zero."""
    if found is None:
        return "-"
    if found.half is None:
        return f"{found.mean:+.2f}"
    return f"{found.mean:+.2f} ± {found.half:.2f}" + (" *" if found.clear else "")


def _heading(document: dict[str, Any]) -> str:
    """What was compared, in one sentence."""
    data, epochs = document["data"], document["epochs"]
    passes = _counted(epochs[0], "epoch") if len(epochs) == 1 else f"{epochs[0]} to {epochs[-1]} epochs"
    seeds = data["seeds"]
    archs = " + ".join(dict.fromkeys(document["archs"]))
    return (
        f"{archs} on {data['name']}: {data['train']:,} pictures to train, {data['test']:,} to test, "
        f"{passes} by recipe {document['recipe']}, {_counted(len(seeds), 'seed')} "
        f"({', '.join(map(str, seeds))})"
    )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")


def _legend(document: dict[str, Any]) -> str:
    """How the table is to be read."""
    n = len(document["data"]["seeds"])
    spread = f"mean ± standard deviation of {n} seeds" if n > 1 else "one seed: no spread is known"
    interval = (
        "Differences are paired by seed, ± half of the 95 % interval by Student's t; * where that leaves out "
        "zero, of at least three seeds. "
        if n > 1
        else ""
    )
    return (
        f"Top-1 on the test split after the last epoch, in %; {spread}. {interval}"
        f"Each is held to its equal of {document['against']}; where that has no fused classifier, fused is "
        "held to its ensemble. Parameters are those that learn, training-only parts included."
    )


def _all(lines: Sequence[dict[str, Any]], key: str) -> str:
    """What the runs have under a key: each value once, in their order; empty where none has one."""
    return ", ".join(dict.fromkeys(str(line[key]) for line in lines if line.get(key) is not None))


def markdown(document: dict[str, Any]) -> str:
    """The table, and all that has to stand beside it."""
    columns, rows = document["table"]["columns"], document["table"]["rows"]
    table = [
        "| " + " | ".join(columns) + " |",
        "| --- |" + " ---: |" * (len(columns) - 1),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    machine = document["machine"]
    chips = ", ".join(filter(None, (machine["gpu"], machine["cpu"])))
    made = (
        f"{machine['device']} ({chips}), {machine['threads']} threads, torch {machine['torch']}, "
        f"lfdeploy {machine['lfdeploy']}"
    )
    remarks = [f"- {remark}" for remark in document["remarks"]]
    text = [f"**{document['heading']}**", "", *table, "", document["legend"], "", f"Made on {made}."]
    return "\n".join([*text, *(["", *remarks] if remarks else [])]) + "\n"


def check_results(file: Path) -> None:
    """Raise `UsageError` before anything is trained where lines could not be written to the file, or what
    belongs beside them is there already and of somebody else.
    """
    if file.suffix != ".jsonl":
        raise UsageError(f"--results is {file}; its name must end in .jsonl.")
    others = [path for end in ENDS.values() if (path := file.with_suffix(end)).exists()]
    if others and not file.exists():
        raise UsageError(f"--results {file} would overwrite {shown(others[0])}; choose another name.")


def write(document: dict[str, Any], file: Path) -> dict[str, str]:
    """JSON, Markdown and a plot beside the file of lines, under its name; returns where they are."""
    files = {what: file.with_suffix(end) for what, end in ENDS.items()}
    write_json(files["json"], document)
    write_bytes(files["markdown"], markdown(document).encode())
    attempt(files["plot"], lambda path: draw(document, path))
    return {"lines": shown(file)} | {what: shown(path) for what, path in files.items()}
