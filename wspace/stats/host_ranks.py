"""Order statistics of magnitudes on the host, as bits: the k-th largest between two bounds of a sample, in one pass.

A partition takes a copy, and thirty times as long where many entries are equal, as in differences of bfloat16. Here
pieces that stay in the cache are compared with the bounds; what lies strictly between them is few, and where it is not,
there are few values that many entries share: these are bounds too, and what equals a bound is only counted. Should the
k-th lie outside, the other side is looked at in a second pass.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from wspace.core.entries import Entries

Words = np.ndarray[Any, Any]  # magnitudes of floats as unsigned integers of their width: the highest bit is zero

PIECE = 2**17  # entries that are looked at together
SAMPLE = 2**15  # entries of which bounds are made
FEW = 4  # values within the bounds that are bounds themselves
DEVIATIONS = 4  # of a rank in the sample, that the bounds are away

Found = TypeVar("Found")
Looking = Generator[None, tuple[int, Any] | None, Found]  # is sent the words, as of `after_a_look`


def last_of_largest(w: Entries, keeps: Sequence[tuple[Any]]) -> Looking[list[tuple[Any, Any]]]:
    """Of so many largest magnitudes the smallest, as bits, and where the last entry with it is that is one of them.

    Of equal ones the first are. For keep = 0 all ones, which no magnitude is. keeps: each in a tuple; all are found in
    the same pass.
    """
    ranks = [int(keep) for (keep,) in keeps]
    found = yield from kth_largest(w, [k for k in ranks if k])
    nothing = np.array(np.iinfo(w.dtype).max, w.dtype)
    return [(found[k].code, np.uint32(_last(w, found[k]))) if k else (nothing, np.uint32(0)) for k in ranks]


class Kth(NamedTuple):
    """The k-th largest magnitude, as bits; where each piece begins and how many equal to it there are in it; and as
    which of those it was found."""

    code: Any
    tied: Sequence[tuple[int, int]]
    room: int


def kth_largest(w: Entries, ranks: Sequence[int]) -> Looking[dict[int, Kth]]:
    """The k-th largest of words for each k, 1 .. n."""
    if not ranks:
        return {}
    sample = np.sort(w.every(w.size // SAMPLE | 1))[::-1]  # an even step could see the same columns in every row
    bounds, found = {k: _bounds(sample, k / w.size) for k in ranks}, dict[int, Kth]()
    while bounds:
        every = list(bounds.values())
        looked: list[list[_Piece]] = []
        while (given := (yield)) is not None:
            looked += _look(given[0], np.asarray(given[1]), every)
        for (k, edges), pieces in zip(list(bounds.items()), zip(*looked, strict=True), strict=True):
            here = _kth(k, pieces, edges)
            if here is not None:
                found[k] = here
                del bounds[k]
            else:
                higher = k <= sum(piece.above[-1] for piece in pieces)
                bounds[k] = (edges[-1], _most(sample)) if higher else (sample.dtype.type(0), edges[0])
    return found


def _kth(k: int, pieces: Sequence[_Piece], edges: Sequence[Any]) -> Kth | None:
    """None if it lies outside the bounds."""
    above, least = (np.sum([getattr(p, side) for p in pieces], axis=0).tolist() for side in ("above", "least"))
    for i, edge in enumerate(edges):
        if above[i] < k <= least[i]:
            return Kth(edge, [(p.start, p.least[i] - p.above[i]) for p in pieces], k - above[i])
    for i in range(len(edges) - 1):
        if least[i + 1] < k <= above[i]:
            between = np.concatenate([p.between for p in pieces])
            between = between[(between > edges[i]) & (between < edges[i + 1])]
            place = between.size - (k - least[i + 1])
            code = np.partition(between, place)[place]
            room = k - least[i + 1] - int(np.count_nonzero(between > code))
            return Kth(code, [(p.start, int(np.count_nonzero(p.between == code))) for p in pieces], room)
    return None


def _last(w: Entries, found: Kth) -> int:
    """Where the entry is that was found."""
    so_far = np.cumsum([n for _, n in found.tied])
    piece = int(np.searchsorted(so_far, found.room))
    start, tied = found.tied[piece]
    ties = np.flatnonzero(w.from_(start)[:PIECE] == found.code)
    return int(start + ties[found.room - (int(so_far[piece]) - tied) - 1])


def _most(words: Words) -> Any:
    """What no magnitude is above: all bits but the sign's."""
    return words.dtype.type(np.iinfo(words.dtype).max >> 1)


def _bounds(sample: Words, share: float) -> Sequence[Any]:
    """Magnitudes, rising, between the first and last of which that of this rank, as a share of all, most likely lies.

    sample: sorted, the largest first. All values that occur there if they are FEW, else two.
    """
    rank = share * sample.size
    away = DEVIATIONS * (rank * (1 - share)) ** 0.5 + DEVIATIONS
    first, last = int(rank - away), int(rank + away) + 1
    ends = [_most(sample)] * (first < 0), [sample.dtype.type(0)] * (last >= sample.size)
    values = np.unique(
        np.concatenate([*(np.array(end, sample.dtype) for end in ends), sample[max(first, 0) : last + 1]])
    )
    return list(values if values.size <= FEW else values[[0, -1]])


class _Piece(NamedTuple):
    """Where a piece begins, how many of its magnitudes are above each bound, and at least as large; and those between
    the first and the last bound that equal none."""

    start: int
    above: Sequence[int]
    least: Sequence[int]
    between: Words


def _look(first: int, words: Words, every: Sequence[Sequence[Any]]) -> Iterator[list[_Piece]]:
    """Pieces that stay in the cache, each with all of the bounds. first: where the words begin."""
    for start in range(0, words.size, PIECE):
        yield [_piece(first + start, words[start : start + PIECE], edges) for edges in every]


def _piece(start: int, words: Words, edges: Sequence[Any]) -> _Piece:
    least = [int(np.count_nonzero(words >= edge)) for edge in edges]
    above, between = [int(np.count_nonzero(words > edges[-1]))], words[:0].copy()  # a view would keep the block
    if len(edges) > 1:
        low, *inner, high = edges
        strictly = words - (low + 1) < high - low - 1  # below low it wraps around
        for edge in inner:
            strictly &= words != edge
        between = words[strictly]
        gaps = np.histogram(between, edges)[0].tolist() if inner else [between.size]
        above = [*(n + gap for n, gap in zip(least[1:], gaps, strict=True)), *above]
    return _Piece(start, above, least, between)
