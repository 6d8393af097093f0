"""An array of a leaf's size that exists a block at a time, each computed or read when it is looked at."""

from __future__ import annotations

import bisect
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from wspace.core.buffers import empty

Array = np.ndarray[Any, Any]


class Entries(NamedTuple):
    """size, dtype: of the array. starts: where blocks begin, the first at 0; they may overlap. block: where one begins
    -> its entries, good until the next is asked for. every: k -> the entries at 0, k, 2k, ...
    """

    size: int
    dtype: Any
    starts: Sequence[int]
    block: Callable[[int], Array]
    every: Callable[[int], Array]

    def __iter__(self) -> Iterator[tuple[int, Array]]:
        """Where a stretch begins, and its entries: one after the other, each entry once."""
        done = 0
        for start in self.starts:
            found = self.block(start)[done - start :]
            yield done, found
            done += found.size

    def from_(self, place: int) -> Array:
        """The entries from a place on to the end of its block."""
        start = self.starts[bisect.bisect_right(self.starts, place) - 1]
        return self.block(start)[place - start :]

    def stretch(self, start: int, count: int) -> Array:
        """So many entries from a place on, or those that are left."""
        found, stop = [self.from_(start)[:count]], min(start + count, self.size)
        start += found[0].size
        while start < stop:
            found[-1] = found[-1].copy()  # the next may come where this one was
            found.append(self.from_(start)[: stop - start])
            start += found[-1].size
        return found[0] if len(found) == 1 else np.concatenate(found)

    def portions(self, sizes: Sequence[int]) -> Iterator[Array]:
        """All of them, in arrays of these sizes."""
        rest, found = iter(self), np.empty(0, self.dtype)
        for size in sizes:
            out, done = empty(size, self.dtype), 0
            while done < size:
                if not found.size:
                    _, found = next(rest)
                some = found[: size - done]
                out[done : done + some.size] = some
                done, found = done + some.size, found[some.size :]
            yield out
            del out

    def whole(self) -> Array:
        """All of them as one array."""
        return self.block(0) if len(self.starts) == 1 else next(self.portions([self.size]))


def entries_of(array: Array) -> Entries:
    """Those of a flat array that is there."""

    def every(k: int) -> Array:
        # NumPy is slow with dtypes that are not its own
        own = array.view(f"u{array.itemsize}") if array.dtype.kind == "V" else array
        return own[::k].copy().view(array.dtype)

    return Entries(array.size, array.dtype, (0,), lambda start: array, every)


def in_parts(read: Callable[[int], Sequence[Array]], starts: Sequence[int], size: int) -> list[Entries]:
    """Those of several flat arrays that are read together, a part at a time; two parts stay, for blocks across both.

    read: the number of a part -> that part of each array. starts: where parts begin.
    """
    part = functools.lru_cache(2)(read)

    @functools.lru_cache(1)
    def every(k: int) -> list[Array]:
        found = [[x[-start % k :: k].copy() for x in part(n)] for n, start in enumerate(starts)]
        return [np.concatenate(x) for x in zip(*found, strict=True)]

    def entries(n: int, dtype: Any) -> Entries:
        return Entries(size, dtype, starts, lambda start: part(starts.index(start))[n], lambda k: every(k)[n])

    return [entries(n, x.dtype) for n, x in enumerate(part(0))]


def padded(found: Any, size: int) -> Any:
    """So many entries, zeros after those that are there."""
    return found if found.size == size else np.concatenate([found, np.zeros(size - found.size, found.dtype)])


def summed(scalars: Sequence[Any]) -> Any:
    """The sum of some, exact but for the last rounding."""
    stacked = np.stack([np.asarray(x) for x in scalars])
    with np.errstate(over="ignore", invalid="ignore"):
        return np.sum(stacked, dtype=np.float64).astype(stacked.dtype)
