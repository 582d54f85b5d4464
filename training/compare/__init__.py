"""`lfdeploy compare`: methods at one recipe, each with several seeds, as figures that can be trusted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lfdeploy.config import TrainConfig
from lfdeploy.errors import LfdeployError, UsageError
from training.compare.entries import entries_of, seeds_of
from training.compare.lines import collected
from training.compare.report import check_results, document_of, write
from training.compare.statistics import check_alone, compared

__all__ = ["compare"]


def compare(
    config: TrainConfig,
    methods: str,
    seeds: str = "3",
    name: str = "compare",
    runs: str | Path = "runs",
    against: str | None = None,
    results: str | Path | None = None,
) -> dict[str, Any]:
    """Train every method with every seed by one recipe, and compare the last epochs on the test split.

    ``methods``: names with commas, each with settings of its own, as in ``lfmkd:attn=none,ffl,independent``.
    ``seeds``: how many, counted from 0, or which, as in ``5,6,7``. The runs are in RUNS/NAME; a line of every
    one goes to ``results`` (default: RUNS/NAME/compare.jsonl), and what has its line there is not run again.
    ``against``: what the others are held to, paired by seed (default: the first of independent, else the
    first of all). Returns the document that is written beside the lines as JSON, with Markdown
    and a plot. Raises `UsageError` for methods, seeds or settings that cannot be, and `Interrupted` after
    Ctrl-C, where the same command goes on.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("compare trains in one process: start it without torchrun.")
    entries, numbers = entries_of(methods), seeds_of(seeds)
    labels = [entry.label for entry in entries]
    alone = [entry.label for entry in entries if entry.method == "independent"]
    base = against or (alone or labels)[0]
    if base not in labels:
        raise UsageError(f"--against is '{base}', which is not compared. Choose one of: {', '.join(labels)}.")
    home = Path(runs) / name
    file = Path(results) if results is not None else home / "compare.jsonl"
    if results is not None:
        check_results(file)
    lines, diverged = collected(config, entries, numbers, home, file)
    remarks = [*diverged, *check_alone(lines)]
    there = [label for label in labels if any(line["label"] == label for line in lines)]
    if base not in there:
        raise LfdeployError(f"No run of {base}, which the others are held to, ended. {' '.join(diverged)}")
    document = document_of(compared(lines, there, base), remarks, lines)
    return document | {"files": write(document, file)}
