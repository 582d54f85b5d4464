"""curves.png and confusion.png of a run: ornaments, which may fail without a loss."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfdeploy.console import say
from lfdeploy.data import Data
from lfdeploy.names import printable
from lfdeploy.run import Run

INK, GRID = "#333a44", "#e3e6ea"
FONT = "DejaVu Sans"  # comes with matplotlib
BOXES = "Last Resort"  # a font that has a box for every letter there is
LONGEST = 28  # letters of a class name in a picture


def draw(run: Run, rows: Sequence[dict[str, Any]], data: Data, answers: NDArray[np.int64], node: str) -> None:
    """Both pictures: of the epochs' ``rows``, and of ``node``'s ``answers`` (N,) to the test pictures."""
    spec, truth = run.spec, data.test.labels
    top1 = 100 * float((answers == truth).mean())
    how = f"{run.name}: {spec['method']}, {' + '.join(spec['archs'])}"
    if rows:  # they may be lost
        attempt(run.path / "curves.png", lambda path: curves(rows, path, how))
    what = f"{run.name}: {node}, test, top-1 {top1:.1f} %"
    attempt(run.path / "confusion.png", lambda path: confusion(truth, answers, data.classes, path, what))


def attempt(path: Path, drawing: Callable[[Path], None]) -> None:
    """Draw one picture; what hinders it, like a font or a full disk, is a line."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # else it tells of its caches and of fonts
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            drawing(path)
    except Exception as error:  # fonts, caches and disks fail in many ways
        lines = str(error).strip().splitlines() or [type(error).__name__]
        say(f"Note: {path.name} could not be drawn ({printable(lines[0])}); all else is there.")


def _escaped(title: str) -> str:
    """A title in the letters of the one font that is always there."""
    from matplotlib.font_manager import findfont, get_font

    letters = get_font(findfont(FONT)).get_charmap()
    return "".join(char if ord(char) in letters else char.encode("unicode_escape").decode() for char in title)


def legible(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names as a picture can show them, numbers where no installed font has the letters; and the fonts."""
    from matplotlib.font_manager import findfont, fontManager, get_font

    lacking = {ord(char) for name in names for char in name} - set(get_font(findfont(FONT)).get_charmap())
    fonts = [FONT]
    real = [entry for entry in fontManager.ttflist if not entry.name.startswith(BOXES)]
    for entry in real if lacking else ():
        letters = lacking & set(get_font(entry.fname).get_charmap())
        if letters:
            fonts.append(entry.name)
            lacking -= letters
    shown = []
    for number, name in enumerate(names):
        short = name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"
        shown.append(str(number) if lacking & set(map(ord, name)) else short)
    return shown, fonts


def figure(width: float, height: float, panels: int, fonts: Sequence[str] = (FONT,)) -> Any:
    """A figure of so many inches, and its panels side by side."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({
        "font.family": list(fonts), "text.parse_math": False,
        "font.size": 10, "axes.edgecolor": INK, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK,
        "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
        "grid.color": GRID, "axes.axisbelow": True, "figure.facecolor": "white", "axes.titlelocation": "left",
    })  # fmt: skip
    return plt.subplots(1, panels, figsize=(width, height), layout="constrained")


def save(figure: Any, path: Path) -> None:
    """Write a figure as a whole file, or none, and close it."""
    import matplotlib.pyplot as plt

    partial = path.with_name(f".{path.name}.partial.png")
    try:
        figure.savefig(partial, dpi=130)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
        plt.close(figure)


def curves(rows: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Loss by part and validation accuracy by node over the epochs."""
    drawn, (left, right) = figure(12, 4.2, 2)
    epochs = [row["epoch"] for row in rows]
    left.plot(epochs, [row["loss"] for row in rows], color=INK, lw=2, label="sum")
    for name in rows[0]["parts"]:
        style = "-" if name.startswith("ce_") else "--"
        left.plot(epochs, [row["parts"][name] for row in rows], style, lw=1.2, label=name)
    left.set(title="Training loss by part", xlabel="epoch")
    left.set_ylim(bottom=0)
    left.legend(frameon=False, fontsize=8, ncols=2)
    if rows[0]["val"]:
        for name in rows[0]["val"]:
            values = [row["val"][name] for row in rows]
            strong = name in ("fused", "ensemble")
            right.plot(
                epochs,
                values,
                ":" if "aux" in name else "-",
                lw=2 if strong else 1.2,
                label=f"{name} {values[-1]:.1f}",
            )
        right.set(title="Validation top-1, % (last epoch in the legend)", xlabel="epoch")
        right.legend(frameon=False, fontsize=8, loc="lower right")
    else:
        right.plot(epochs, [row["lr"] for row in rows], color=INK)
        right.set(title="Learning rate (no validation split)", xlabel="epoch")
    for panel in (left, right):
        panel.xaxis.get_major_locator().set_params(integer=True)  # there is no half an epoch
    drawn.suptitle(_escaped(title), x=0.01, ha="left", fontweight="bold")
    save(drawn, path)


def confusion(
    truth: NDArray[np.int64], answer: NDArray[np.int64], classes: Sequence[str], path: Path, title: str
) -> None:
    """Rows are true classes, columns answers, in percent of the row; with many
    classes also the worst pairs.
    """
    count = len(classes)
    matrix = np.zeros((count, count))
    np.add.at(matrix, (truth, answer), 1)
    share = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    named = count <= 25
    classes, fonts = legible(classes)
    drawn, axes = figure(6.6 if named else 12, 6, 1 if named else 2, fonts)
    axis = axes if named else axes[0]
    axis.grid(False)
    axis.imshow(share, cmap="Blues", vmin=0, vmax=100)
    axis.set(xlabel="answer", ylabel="truth", title="% of the true class")
    if named:
        axis.set_xticks(range(count), classes, rotation=90 if max(map(len, classes)) > 3 else 0)
        axis.set_yticks(range(count), classes)
        for i in range(count):
            for j in range(count):
                if share[i, j] >= 0.5:
                    axis.text(
                        j,
                        i,
                        f"{share[i, j]:.0f}",
                        ha="center",
                        va="center",
                        fontsize=8,
                        color="white" if share[i, j] > 55 else INK,
                    )
    else:
        wrong = share - np.diag(np.diag(share))
        worst = np.argsort(wrong, axis=None)[::-1][:15][::-1]
        pairs = [(int(k // count), int(k % count)) for k in worst]
        bars = axes[1]
        bars.barh(
            [f"{classes[i]} as {classes[j]}" for i, j in pairs],
            [wrong[i, j] for i, j in pairs],
            color="#3b6fb6",
        )
        bars.set(title="Most frequent mistakes, % of the true class")
    drawn.suptitle(_escaped(title), x=0.01, ha="left", fontweight="bold")
    save(drawn, path)
