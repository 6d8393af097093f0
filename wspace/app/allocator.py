"""Pages that malloc keeps: a merge frees and takes blocks of a few megabytes all the time.

glibc would give each of them back to the system, which clears every page before it hands it out again: half of the time
of a merge on a machine where that is slow. By itself it also keeps an arena a thread, and Orbax has many: what each of
them keeps adds up to another 100 MiB.
"""

from __future__ import annotations

import ctypes

TRIM, MMAP, ARENAS = -1, -3, -8  # glibc's M_TRIM_THRESHOLD, M_MMAP_THRESHOLD and M_ARENA_MAX
LARGEST = 2**25  # bytes: the largest that every glibc takes for the second


def keep_pages() -> None:
    """Free memory at the end of the one heap stays the process's own; only arrays above LARGEST come from the system.
    Does nothing where the C library has no such setting."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(TRIM, 2**31 - 1)
        mallopt(MMAP, LARGEST)
        mallopt(ARENAS, 1)


def release_pages() -> None:
    """What is free goes back to the system, before other libraries want memory of their own."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
