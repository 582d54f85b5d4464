"""A bench document as a table for the terminal, as Markdown, and as a plot."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from export.bench.rounds import bench_artifacts
from lfdeploy.console import document as answer
from lfdeploy.console import say, table, width
from lfdeploy.errors import UsageError
from lfdeploy.run import may_write, write_bytes

COLUMNS = ["artifact", "backend", "batch", "p50 ms", "p95 ms", "images/s", "speed [95 %]", "MB", "top-1 %"]
INK, GRID = "#333a44", "#e3e6ea"
REFERENCE = "#7a828c"
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#a6559d", "#b8860b", "#3d9bd1", "#b0413e", "#5c6f2f"]
MARKERS = "osD^vP*X"


def check_places(markdown: str, plot: str, as_json: bool) -> None:
    """Raise `UsageError` before anything is measured if the results could not be written."""
    if markdown == "-" and as_json:
        raise UsageError(
            "--markdown - and --json both want standard output; write the table to a file, or drop one."
        )
    if plot and Path(plot).suffix != ".png":
        raise UsageError(f"--plot is '{plot}'; write a name that ends in .png.")
    for flag, name in (("--markdown", markdown), ("--plot", plot)):
        if name not in ("", "-"):
            may_write(flag, name, text=flag == "--markdown")


def report(
    names: Sequence[str],
    batches: Sequence[int],
    rounds: int,
    to_markdown: str,
    to_plot: str,
    as_json: bool,
    **how: Any,
) -> None:
    """Measure as `bench_artifacts` does with ``how``; print the table or the document, and write the files
    asked for.
    """
    check_places(to_markdown, to_plot, as_json)
    document = bench_artifacts(names, batches, rounds, **how)
    if to_markdown == "-":
        print(markdown(document), end="")
    elif as_json:
        answer(document)
    else:
        show(document)
    if to_markdown not in ("", "-"):
        write_bytes(Path(to_markdown), markdown(document).encode())
    if to_plot:
        write_bytes(Path(to_plot), plot(document))


def cells(row: dict[str, Any]) -> list[str]:
    """One row as text, under `COLUMNS`."""
    speed = "-"
    if row["ratio"] is not None:
        digits = 1 if row["ratio_high"] >= 9.95 else 2
        speed = f"{row['ratio']:.{digits}f}x [{row['ratio_low']:.{digits}f}, {row['ratio_high']:.{digits}f}]"
        speed = "1 (reference)" if row["against"] == _name(row) else speed
    top1 = "-" if row["top1"] is None else f"{row['top1']:.2f}"
    name = f"{row['artifact']}{' (foreign)' if row['foreign'] else ''}"
    return [name, row["backend"], str(row["batch"]), _ms(row["p50_ms"]), _ms(row["p95_ms"]),
            f"{row['images_per_second']:,.0f}", speed, f"{row['bytes'] / 1e6:.2f}", top1]  # fmt: skip


def _name(row: dict[str, Any]) -> str:
    return f"{row['artifact']} ({row['backend']})"


def _ms(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 100 else f"{value:.0f}"


def headline(document: dict[str, Any]) -> str:
    """What was measured where, in one line."""
    threads = f"{document['threads']} thread{'s' * (document['threads'] > 1)}"
    return (
        f"{document['rounds']} interleaved rounds, {threads} each, on {document['machine']} "
        f"({document['processor']})"
    )


def legend(document: dict[str, Any]) -> str:
    """What the speed column means, and against which rows."""
    against = list(dict.fromkeys(row["against"] for row in document["rows"] if row["against"]))
    if not against:
        return "p50, p95: of all calls."
    whose = (
        against[0] if len(against) == 1 else f"the {against[0].split('(')[-1][:-1]} module of the same target"
    )
    if len({name.split("(")[-1] for name in against}) > 1:
        whose = ", ".join(against)
    return (
        f"Speed: times as fast as {whose}, median over rounds of the ratio within a round [95 % "
        "interval]. p50, p95: of all calls."
    )


def show(document: dict[str, Any]) -> None:
    """The table on standard output, its meaning and the notes on standard error."""
    rows: list[list[str]] = []
    for batch in dict.fromkeys(row["batch"] for row in document["rows"]):
        rows.append([f"batch {batch}", *[""] * (len(COLUMNS) - 2)])
        rows += [
            [name, backend, *rest]
            for name, backend, _, *rest in (cells(r) for r in document["rows"] if r["batch"] == batch)
        ]
    columns = [name for name in COLUMNS if name != "batch"]
    others = sum(max(len(line[i]) for line in [columns, *rows]) + 2 for i in range(1, len(columns)))
    room = max(12, width() - others - 2)
    table(
        headline(document), columns, [[_short(name, room), *rest] for name, *rest in rows], left=2, tight=True
    )
    for note in [legend(document), *document["notes"]]:
        say(note)


def _short(name: str, room: int) -> str:
    """At most ``room`` letters: the middle is left out, the ends tell most."""
    tail = (room - 1) * 2 // 3
    return name if len(name) <= room else f"{name[: room - 1 - tail]}…{name[-tail:]}"


def markdown(document: dict[str, Any]) -> str:
    """The same table for a README, with where it was measured below it."""
    lines = [
        COLUMNS,
        ["---", "---", *["---:"] * (len(COLUMNS) - 2)],
        *(cells(row) for row in document["rows"]),
    ]
    text = "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
    return "\n\n".join([text, f"{headline(document)}. {legend(document)}", *document["notes"]]) + "\n"


def plot(document: dict[str, Any]) -> bytes:
    """A PNG: latency by batch size on logarithmic axes, a line per row with its name, bars from the 5th to
    the 95th percentile.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    lines: dict[str, list[dict[str, Any]]] = {}
    for row in document["rows"]:
        lines.setdefault(_name(row), []).append(row)
    inked = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor")
    style: Any = {"font.size": 10} | dict.fromkeys(inked, INK)
    with plt.rc_context(style):
        height = max(4.2, 1.6 + 0.3 * len(lines))
        figure, axes = plt.subplots(figsize=(9, height), layout="constrained", facecolor="white")
        axes.set_facecolor("white")
        ends = []
        for number, rows in enumerate(lines.values()):
            aside = 1 + 0.025 * (number - (len(lines) - 1) / 2)  # so that bars do not lie on one another
            ends.append(_line(axes, rows, number, aside))
        _scales(axes, sorted({row["batch"] for row in document["rows"]}))
        _label(axes, ends)
        axes.set_title("Latency by batch size", loc="left", fontweight="bold", pad=22)
        told = f"median of all calls, bars from the 5th to the 95th percentile; {headline(document)}"
        axes.text(0, 1.02, told, transform=axes.transAxes, fontsize=7.5, va="bottom")
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=140, format="png")
        plt.close(figure)
    return buffer.getvalue()


def _line(axes: Any, rows: list[dict[str, Any]], number: int, aside: float) -> tuple[float, float, str, str]:
    """Draw the line of one row over its batches; its last point, its name and its colour."""
    rows, backend = sorted(rows, key=lambda row: row["batch"]), rows[0]["backend"]
    colour = REFERENCE if backend == "pytorch" else COLOURS[number % len(COLOURS)]
    x, y = [row["batch"] * aside for row in rows], [row["p50_ms"] for row in rows]
    bars = [
        [row["p50_ms"] - row["p5_ms"] for row in rows],
        [row["p95_ms"] - row["p50_ms"] for row in rows],
    ]
    axes.errorbar(
        x,
        y,
        yerr=bars,
        color=colour,
        marker=MARKERS[number % len(MARKERS)],
        ms=5,
        lw=1.8,
        elinewidth=1,
        capsize=2.5,
        ls="--" if backend in ("pytorch", "torch.compile") else "-",
    )
    return x[-1], y[-1], f"{_name(rows[0])}{', foreign' * rows[0]['foreign']}", colour


def _scales(axes: Any, batches: list[int]) -> None:
    """Logarithmic axes with a tick at every batch size, and their grid."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set(xscale="log", yscale="log", xlabel="batch size", ylabel="latency of a batch, ms")
    axes.set_xticks(batches, [str(b) for b in batches])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(color=GRID, which="major")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if len(batches) == 1:
        axes.set_xlim(batches[0] / 1.5, batches[0] * 1.5)


def _label(axes: Any, ends: list[tuple[float, float, str, str]]) -> None:
    """Every line's name right of the axes at its end's height, moved apart where they would touch."""
    low, high = (math.log(v) for v in axes.get_ylim())
    gap = 0.19 / (axes.figure.get_figheight() - 1.2)  # of the axes' height, for one line of text
    ends = sorted(ends, key=lambda end: end[1])
    heights = apart([(math.log(y) - low) / (high - low) for _, y, _, _ in ends], gap)
    over = max(0.0, heights[-1] - 0.97)
    for height, (x, y, name, colour) in zip((h - over for h in heights), ends, strict=True):
        axes.annotate(
            name,
            (x, y),
            (1.04, height),
            "data",
            "axes fraction",
            color=colour,
            va="center",
            fontsize=9,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "lw": 0.6,
                "alpha": 0.7,
                "shrinkA": 1,
                "shrinkB": 4,
                "relpos": (0, 0.5),
            },
        )


def apart(places: list[float], gap: float) -> list[float]:
    """Rising places moved as little as needed to lie at least ``gap`` apart: groups that touch spread around
    their mean.
    """
    groups: list[list[float]] = []
    for place in places:
        groups.append([place])
        while len(groups) > 1 and _ends(groups[-2], gap)[1] + gap > _ends(groups[-1], gap)[0]:
            last = groups.pop()
            groups[-1] += last
    return [_ends(group, gap)[0] + gap * index for group in groups for index in range(len(group))]


def _ends(group: list[float], gap: float) -> tuple[float, float]:
    middle, half = sum(group) / len(group), gap * (len(group) - 1) / 2
    return middle - half, middle + half
