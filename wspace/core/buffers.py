"""Memory for whole leaves on the host, used again: to touch the pages of a fresh array costs more than to fill it.

An array goes back once nothing refers to it any more, its views and the jax arrays that share its memory included.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

SMALLEST = 2**20  # bytes below which an array is not worth keeping
KEPT = 2**28  # bytes that wait to be used again, at most
ALIGNED = 64  # bytes: from such addresses jax reads without a copy

_FREE: dict[int, _Memory] = {}


class _Memory(np.ndarray[Any, Any]):
    """Bytes that return to the free ones. Of a class of its own: NumPy makes plain views refer to plain arrays past
    other plain arrays, so that their owner could be gone before them."""


def empty(size: int, dtype: Any) -> np.ndarray[Any, Any]:
    """An array `[size]` with any content, its memory aligned for jax."""
    nbytes = size * np.dtype(dtype).itemsize
    if nbytes < SMALLEST:
        return np.empty(size, dtype)
    memory = _taken(nbytes)
    start = -memory.ctypes.data % ALIGNED
    owner = memory[start : start + nbytes]
    weakref.finalize(owner, _give_back, memory).atexit = False
    return np.asarray(owner).view(dtype)


@contextmanager
def keeping(most: int | None) -> Iterator[None]:
    """While it lasts, no more than so many bytes wait to be used again; None changes nothing."""
    global KEPT
    before = KEPT
    KEPT = before if most is None else min(before, max(0, most))
    try:
        _trim()
        yield
    finally:
        KEPT = before


def _taken(nbytes: int) -> _Memory:
    """The smallest free memory that fits, if no more than half of it is wasted."""
    for key, memory in sorted(_FREE.items(), key=lambda item: item[1].nbytes):
        fits = nbytes + ALIGNED <= memory.nbytes <= 2 * (nbytes + ALIGNED)
        if fits and _FREE.pop(key, None) is not None:  # another thread may have been quicker
            return memory
    return np.empty(nbytes + ALIGNED, np.uint8).view(_Memory)


def _give_back(memory: _Memory) -> None:
    _FREE[id(memory)] = memory
    _trim()


def _trim() -> None:
    for key in list(_FREE):
        if sum(m.nbytes for m in list(_FREE.values())) <= KEPT:
            break
        _FREE.pop(key, None)
