"""What else ran on this machine while something was measured: busy time of the cores less our own,
from /proc/stat.

The load average is no use for it: it lags by a minute and counts the measuring process itself.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BOUND = 0.1  # of the cores' time; above it a round counts as disturbed
STAT = Path("/proc/stat")


@dataclass(frozen=True)
class Reading:
    """Seconds since some moment: all busy time of ``cores`` cores, CPU time of this
    process, and the clock.
    """

    busy: float
    own: float
    clock: float
    cores: int


def busy_seconds(stat: str, cores: Collection[int], ticks: int) -> float:
    """Seconds that these cores did not idle, from the text of /proc/stat; ``ticks`` is the length of
    its second.

    Time stolen by the hypervisor counts as busy: something else ran.
    """
    total = 0
    for line in stat.splitlines():
        name, *fields = line.split() or [""]
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in cores:
            # guest time is in user already
            user, nice, system, _idle, _iowait, irq, softirq, *more = map(int, fields)
            total += user + nice + system + irq + softirq + sum(more[:1])
    return total / ticks


def read() -> Reading | None:
    """The counters now, of the cores this process may use; None where there is no /proc/stat."""
    try:
        stat = STAT.read_text()
    except OSError:
        return None
    cores = os.sched_getaffinity(0)
    return Reading(
        busy_seconds(stat, cores, os.sysconf("SC_CLK_TCK")),
        time.process_time(),
        time.perf_counter(),
        len(cores),
    )


def foreign_seconds(before: Reading, after: Reading) -> float:
    """CPU seconds that others took between two readings."""
    return max(0.0, (after.busy - before.busy) - (after.own - before.own))


def share(before: Reading, after: Reading) -> float:
    """Foreign time between two readings as a share of what the cores could give, 0 to 1."""
    return min(1.0, foreign_seconds(before, after) / max((after.clock - before.clock) * after.cores, 1e-9))


def summary(rounds: Sequence[tuple[Reading, Reading]], tick: float = 0.01) -> dict[str, Any]:
    """Of readings before and after every round: the ``share`` over all, by round, and how many rounds
    were disturbed.

    A disturbed round has a share above the bound by more than what the counters' resolution explains.
    """
    spent = sum((after.clock - before.clock) * after.cores for before, after in rounds)
    disturbed = [
        share(b, a) > BOUND and foreign_seconds(b, a) > BOUND * (a.clock - b.clock) * a.cores + tick * a.cores
        for b, a in rounds
    ]
    return {
        "share": min(1.0, sum(foreign_seconds(b, a) for b, a in rounds) / max(spent, 1e-9)),
        "bound": BOUND,
        "rounds_above": sum(disturbed),
        "rounds": [round(share(b, a), 4) for b, a in rounds],
    }


def note(found: dict[str, Any] | None, load: float, cores: int) -> str:
    """One sentence where others kept the machine busy, else an empty string."""
    if found is None:
        return (
            f"The machine was busy before the start (load {load:.1f}): trust the ratios, not the "
            "milliseconds."
            if load > cores / 2
            else ""
        )
    if not found["rounds_above"]:
        return ""
    return (
        f"Other processes took {100 * found['share']:.0f} % of the CPU time while measuring, more than "
        f"{100 * BOUND:.0f} % in "
        f"{found['rounds_above']} of {len(found['rounds'])} rounds: trust the ratios and their "
        "intervals, not the milliseconds."
    )
