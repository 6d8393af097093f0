"""An array of a leaf's size that exists a block at a time, each computed when it is looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

Array = np.ndarray[Any, Any]


class Entries(NamedTuple):
    """size, dtype: of the array. starts: where blocks begin, the first at 0; they may overlap. block: where one begins
    -> its entries, good until the next is asked for. spread: a number -> about so many entries from all over.
    """

    size: int
    dtype: Any
    starts: Sequence[int]
    block: Callable[[int], Array]
    spread: Callable[[int], Array]

    def __iter__(self) -> Iterator[tuple[int, Array]]:
        """Where a stretch begins, and its entries: one after the other, each entry once."""
        done = 0
        for start in self.starts:
            found = self.block(start)[done - start :]
            yield done, found
            done += found.size

    def from_(self, place: int) -> Array:
        """The entries from a place on to the end of its block."""
        start = max(start for start in self.starts if start <= place)
        return self.block(start)[place - start :]

    def stretch(self, start: int, count: int) -> Array:
        """So many entries from a place on, or those that are left; count: at most a block's."""
        begin = min(start, self.starts[-1])
        return self.block(begin)[start - begin : start - begin + count]

    def into(self, out: Array) -> Array:
        """All of them, in an array that is there for them."""
        for start, found in self:
            out[start : start + found.size] = found
        return out


def entries_of(array: Array) -> Entries:
    """Those of a flat array that is there."""
    return Entries(array.size, array.dtype, (0,), lambda start: array, lambda n: array[:: max(1, array.size // n)])


def added(function: Callable[..., Any], arrays: Sequence[Entries], block: int) -> Any:
    """The sum of what a function gives for each block of arrays of one size, the last block filled up with zeros.

    function: so many entries of each -> a tree of scalars.
    """
    found = []
    for start in range(0, arrays[0].size, block):
        given = [x.stretch(start, block) for x in arrays]
        if given[0].size < block:
            given = [np.concatenate([x, np.zeros(block - x.size, x.dtype)]) for x in given]
        found.append(function(*given))

    def total(*parts: Any) -> Array:
        scalars = np.stack([np.asarray(x) for x in parts])
        with np.errstate(over="ignore", invalid="ignore"):
            return np.sum(scalars, dtype=np.float64).astype(scalars.dtype)

    return jax.tree.map(total, *found)
