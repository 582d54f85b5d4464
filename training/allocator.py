"""Memory that a step has given back stays with the process.

glibc returns the top of its heap to the system when much of it is free, and takes blocks of more than some
megabytes from the system one by one. A training step frees all that it has taken, so each step then has the
system clear its hundreds of megabytes again, page by page.
"""

from __future__ import annotations

import ctypes
import platform

#: parameters of mallopt(3) by their numbers in malloc.h
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, ARENA_MAX = -1, -2, -3, -8
KEPT = {
    ARENA_MAX: 1,  # what one thread has freed another takes; parts of a cohort change threads
    MMAP_THRESHOLD: 32 << 20,  # the largest that glibc takes
    TRIM_THRESHOLD: (1 << 31) - 1,
    TOP_PAD: 64 << 20,
}


def keep_heap() -> bool:
    """Have glibc keep what is freed, for the rest of the process; whether it does. Other libraries: nothing.

    To be called before threads have begun: an arena that one has already stays its own.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    answers = [mallopt(parameter, value) for parameter, value in KEPT.items()]
    return all(answer == 1 for answer in answers)
