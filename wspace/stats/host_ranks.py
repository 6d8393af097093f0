"""Order statistics of magnitudes on the host: the k-th largest between two bounds that a sample gives, in one pass.

A partition takes a copy, and thirty times as long where many entries are equal, as in differences of bfloat16. Here
pieces that stay in the cache are compared with the bounds; what lies strictly between them is few, and ties with them
are only counted. Should the k-th lie outside, the other side is looked at in a second pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from wspace.core.buffers import empty
from wspace.core.fold import Fold

Words = np.ndarray[Any, Any]  # floats as unsigned integers of their width

PIECE = 2**16  # entries that are looked at together
SAMPLE = 2**15  # entries of which bounds are made
DIGIT = 16  # bits that are counted together, in parts
DEVIATIONS = 4  # of a rank in the sample, that the bounds are away


def kth_of_words(words: Words, k: int) -> Any:
    """The k-th largest magnitude of floats `[n]` given as words, k = 1 .. n."""
    most = _most(words)
    low, high = _bounds(words, k)
    while True:
        above, down_to_high, down_to_low, between = _look(words, low, high)
        if above < k <= down_to_high:
            return high
        if down_to_high < k <= down_to_high + between.size:
            place = between.size - (k - down_to_high)
            return np.partition(between, place)[place]
        if down_to_high < k <= down_to_low:
            return low
        low, high = (high, most) if k <= above else (words.dtype.type(0), low)


def mask_of_words(words: Words, keep: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """True at the `keep` largest magnitudes; of equal ones the first stay."""
    mask = empty(words.size, bool)
    if not keep:
        mask[:] = False
        return mask
    found, surplus = kth_of_words(words, keep), -keep
    for start, piece in _pieces(words):
        here = mask[start : start + piece.size]
        np.greater_equal(piece, found, out=here)
        surplus += int(np.count_nonzero(here))
    for start in reversed(range(0, words.size, PIECE) if surplus else ()):
        ties = np.flatnonzero(words[start : start + PIECE] & _most(words) == found)[-surplus:]
        mask[start + ties] = False
        surplus -= ties.size
        if not surplus:
            break
    return mask


def counts_in_parts(itemsize: int) -> tuple[Fold, ...]:
    """What `mask_in_parts` must know: how often each value of the highest 16 bits occurs, then of the next 16 among
    those with the right highest ones, and so on."""

    def counts(known: Sequence[Words], w: Words, keep: Any) -> Words:
        words = w.view(f"u{itemsize}") & _most(w.view(f"u{itemsize}"))
        code, _ = _found(known, int(keep))
        shift = 8 * itemsize - DIGIT * (len(known) + 1)
        if known:
            words = words[words >> words.dtype.type(shift + DIGIT) == words.dtype.type(code)]
        digits = (words >> words.dtype.type(shift)) & words.dtype.type(2**DIGIT - 1)
        return np.bincount(digits.astype(np.int64), minlength=2**DIGIT)

    return (Fold(counts, np.add),) * (8 * itemsize // DIGIT)


def mask_in_parts(known: Sequence[Words]) -> Callable[[Words, Any], Words]:
    """`mask_of_words` of one part after the other: of entries that equal the last one the first in all parts stay."""
    left: int | None = None

    def mask(w: Words, keep: Any) -> Words:
        nonlocal left
        words = w.view(f"u{w.itemsize}") & _most(w.view(f"u{w.itemsize}"))
        code, room = _found(known, int(keep))
        left = room if left is None else left
        ties = np.flatnonzero(words == words.dtype.type(code))
        found = words > words.dtype.type(code) if keep else np.zeros(words.size, bool)
        found[ties[:left]] = True
        left -= min(left, ties.size)
        return found

    return mask


def _found(known: Sequence[Words], k: int) -> tuple[int, int]:
    """The highest digits of the k-th largest magnitude, as far as counts are known; and as which of the words with
    those it was found."""
    code = 0
    for counts in known:
        from_top = np.cumsum(counts[::-1])
        place = int(np.searchsorted(from_top, k)) if k else 0
        code = (code << DIGIT) | (2**DIGIT - 1 - place)
        k -= int(from_top[place - 1]) if place else 0
    return code, k


def _most(words: Words) -> Any:
    """All bits but the sign's."""
    return words.dtype.type(np.iinfo(words.dtype).max >> 1)


def _pieces(words: Words) -> Iterator[tuple[int, Words]]:
    """Where each piece begins, and its magnitudes, in memory that the next one overwrites."""
    scratch, most = np.empty(PIECE, words.dtype), _most(words)
    for start in range(0, words.size, PIECE):
        piece = words[start : start + PIECE]
        yield start, np.bitwise_and(piece, most, out=scratch[: piece.size])


def _bounds(words: Words, k: int) -> tuple[Any, Any]:
    """Two magnitudes between which the k-th largest most likely lies."""
    sample = np.sort(words[:: max(1, words.size // SAMPLE)] & _most(words))[::-1]
    rank, share = k / words.size * sample.size, k / words.size
    away = DEVIATIONS * (sample.size * share * (1 - share)) ** 0.5 + DEVIATIONS
    first, last = int(rank - away), int(rank + away) + 1
    return (
        sample[last] if last < sample.size else words.dtype.type(0),
        sample[first] if first >= 0 else _most(words),
    )


def _look(words: Words, low: Any, high: Any) -> tuple[int, int, int, Words]:
    """How many are above `high`, at least `high`, at least `low`; and those strictly between."""
    one, above, down_to_high, down_to_low = words.dtype.type(1), 0, 0, 0
    between: list[Words] = [words[:0]]
    offsets = np.empty(PIECE, words.dtype)
    for _, piece in _pieces(words):
        above += int(np.count_nonzero(piece > high))
        down_to_high += int(np.count_nonzero(piece >= high))
        down_to_low += int(np.count_nonzero(piece >= low))
        if high - low > one:
            offset = np.subtract(piece, low + one, out=offsets[: piece.size])  # below low: wraps around
            between.append(piece[offset < high - low - one])
    return above, down_to_high, down_to_low, np.concatenate(between)
