"""What the heap of a server keeps."""

from __future__ import annotations

import ctypes
import platform

M_ARENA_MAX = -8  # of malloc.h


def few_arenas() -> None:
    """Let all threads share two arenas of glibc's heap: with one for each, what a large picture took stays
    with the thread that had it.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)
