"""A comparison as a picture: a panel for each role, a line for each method, a dot for each seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training.compare.statistics import ROLES
from training.plots import GRID, INK, figure, save

TITLES = {"peers": "Peers (their mean)", "fused": "Fused", "ensemble": "Ensemble (mean of logits)"}
BASE, BETTER, WORSE, UNCLEAR = "#6b7280", "#1a7f4b", "#b3261e", "#3b6fb6"


def draw(document: dict[str, Any], path: Path) -> None:
    """Top-1 by role and method: dots are seeds, the diamond is their mean, the bar the 95 % interval of the
    difference to the equal, whose mean is the dashed line.
    """
    rows = document["rows"]
    longest = max(len(row["label"]) for row in rows)
    drawn, panels = figure(12 + 0.07 * longest, 1.9 + 0.42 * len(rows), len(ROLES))
    base = next(row for row in rows if row["base"])
    for number, (role, panel) in enumerate(zip(ROLES, panels, strict=True)):
        equal = base["cells"].get(role) or base["cells"]["ensemble"]
        panel.axvline(equal["mean"], color=BASE, lw=1, ls="--", zorder=1)
        for place, row in enumerate(rows):
            if role in row["cells"]:
                _line(panel, place, row["cells"][role], equal["mean"])
        panel.set_ylim(len(rows) - 0.5, -0.5)
        panel.set_yticks(
            range(len(rows)), [row["label"] for row in rows] if number == 0 else [""] * len(rows)
        )
        panel.tick_params(axis="y", length=0)
        panel.grid(axis="y", color=GRID)
        panel.set(title=TITLES[role], xlabel="top-1, %")
    many = len(document["data"]["seeds"]) > 1
    bars = "bar: 95 % of the paired difference; " if many else ""
    drawn.suptitle(document["heading"], x=0.01, ha="left", fontweight="bold", fontsize=10)
    dashed = f"dashed: {document['against']}, its ensemble where it has no fused classifier"
    below = f"Dot: one seed; diamond: mean; {bars}{dashed}"
    drawn.supxlabel(below, x=0.01, ha="left", fontsize=8, color=INK)
    save(drawn, path)


def _line(panel: Any, place: int, cell: dict[str, Any], equal: float) -> None:
    found = cell["difference"]
    colour = BASE if found is None else UNCLEAR
    if found is not None and found["half"] is not None:
        if found["n"] >= 3 and abs(found["mean"]) > found["half"] > 0:
            colour = BETTER if found["mean"] > 0 else WORSE
        low, high = (equal + found["mean"] + sign * found["half"] for sign in (-1, 1))
        panel.plot(
            [low, high], [place, place], color=colour, lw=3, alpha=0.35, solid_capstyle="round", zorder=2
        )
    values = list(cell["values"].values())
    panel.plot(values, [place] * len(values), "o", color=colour, ms=4, alpha=0.6, mew=0, zorder=3)
    panel.plot([cell["mean"]], [place], "D", color=colour, ms=6, zorder=4)
