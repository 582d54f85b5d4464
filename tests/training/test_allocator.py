"""Memory that stays with the process from step to step."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

CODE = """
import resource, sys
from training.allocator import keep_heap
if sys.argv[1] == "kept":
    assert keep_heap()
import torch
def step():
    return [torch.ones(2_000_000 + 1000 * number) for number in range(8)]
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_what_a_step_freed_the_next_one_takes() -> None:
    """By the pages that the system must clear for ten steps that take and free 64 MB."""
    faults = {
        kind: int(subprocess.run([sys.executable, "-c", CODE, kind], capture_output=True, check=True).stdout)
        for kind in ("plain", "kept")
    }
    assert faults["kept"] < 100 < 20_000 < faults["plain"]
