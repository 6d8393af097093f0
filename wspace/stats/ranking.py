"""Exact ranking over a whole tree: which entries are among its largest, told leaf by leaf from three small summaries.

The bits of a non-negative float32 grow with its value. The first fold counts the leading 16 bits of every score, the
second the 16 bits after them where the first ones are those of the cut, the third how often each leaf has the cut's
value itself. Then each leaf knows its own: all above the cut, and its share of the ties, in the order of the paths.
Nothing is sorted or gathered, and no leaf is held longer than it takes to count it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from wspace.core.fold import Fold
from wspace.core.transform import Context
from wspace.core.typing import Array, Leaf
from wspace.stats.histogram import DIGIT, histogram, largest_digit
from wspace.stats.quantile import Found, check_countable, check_fraction, count, from_top, magnitude_bits
from wspace.stats.wide import Wide, at_least, minus, plus, wide

Score = Callable[[tuple[Leaf, ...], Context], Array]


class Cut(NamedTuple):
    """Where the ranking is cut: the code of the last entry that stays, and as which of that code's entries it stays."""

    code: Array
    room: Wide


def ranking(score: Score, sparsity: Array | float) -> tuple[Fold, Fold, Fold]:
    """Three folds, after which `stays(score, ctx)` masks the entries of a leaf that are not among the
    `round(sparsity * N)` smallest of the N scores of all leaves.

    score: `(leaves, ctx) -> array`; ranked by its magnitude in float32. sparsity: 0..1, traced; exact for a Python
      number, multiplied in float32 otherwise.
    """
    if isinstance(sparsity, int | float):
        check_fraction(sparsity)

    def high(leaves: tuple[Leaf, ...], ctx: Context) -> tuple[int, Wide]:
        x = score(leaves, ctx)
        check_countable(x, ctx.spec)
        return x.size, wide(_high_counts(x))

    def low(leaves: tuple[Leaf, ...], ctx: Context) -> tuple[Cut, Wide]:
        cut: Cut = ctx.summaries[0]
        return cut, wide(_low_counts(score(leaves, ctx), cut.code))

    def ties(leaves: tuple[Leaf, ...], ctx: Context) -> tuple[Cut, dict[str, Array]]:
        cut: Cut = ctx.summaries[1]
        return cut, {ctx.spec.path: _tied(score(leaves, ctx), cut.code)}

    return (
        Fold(high, lambda a, b: (a[0] + b[0], _plus(a[1], b[1])), lambda s: _cut_high(s[1], _kept(sparsity, s[0]))),
        Fold(low, lambda a, b: (a[0], _plus(a[1], b[1])), lambda s: _cut_low(s[1], s[0])),
        Fold(ties, lambda a, b: (a[0], {**a[1], **b[1]}), _shares),
    )


def stays(score: Array, ctx: Context) -> Array:
    """The mask of the entries of a leaf that are among the largest of the whole tree, given the folds of `ranking`."""
    return _mask(score, ctx.summaries[2][ctx.spec.path])


def _kept(sparsity: Array | float, n: int) -> Wide:
    if isinstance(sparsity, int | float):
        return wide(n - round(sparsity * n))
    product = jnp.round(jnp.asarray(sparsity, jnp.float32) * float(n))
    high = jnp.floor(product / 2.0**32)
    pruned, size = Wide(high.astype(jnp.uint32), (product - high * 2.0**32).astype(jnp.uint32)), wide(n)
    return jax.tree.map(lambda none, some: jnp.where(at_least(pruned, size), none, some), wide(0), minus(size, pruned))


def _codes(score: Array) -> Array:
    return magnitude_bits(score.astype(jnp.float32))


_plus = jax.jit(plus)


@jax.jit
def _high_counts(score: Array) -> Array:
    return histogram(_codes(score) >> DIGIT)


@jax.jit
def _low_counts(score: Array, code: Array) -> Array:
    codes = _codes(score)
    return histogram(codes & (2**DIGIT - 1), (codes >> DIGIT) == (code >> DIGIT))


@jax.jit
def _tied(score: Array, code: Array) -> Array:
    return count(_codes(score) == code)


@jax.jit
def _cut_high(counts: Wide, room: Wide) -> Cut:
    digit, room = largest_digit(counts, room)
    return Cut(digit << DIGIT, room)


@jax.jit
def _cut_low(counts: Wide, cut: Cut) -> Cut:
    digit, room = largest_digit(counts, cut.room)
    return Cut(cut.code | digit, room)


def _shares(s: tuple[Cut, dict[str, Array]]) -> dict[str, Found]:
    """Per leaf, the code of the cut and how many of the leaf's ties stay: the first paths are served first."""
    (code, room), tied = s
    shares = {}
    for path in sorted(tied):
        share, room = _serve(room, tied[path])
        shares[path] = Found(code, share, tied[path])
    return shares


@jax.jit
def _serve(room: Wide, tied: Array) -> tuple[Array, Wide]:
    share = jnp.where(at_least(room, wide(tied)), tied, room.low)
    return share, minus(room, wide(share))


@jax.jit
def _mask(score: Array, found: Found) -> Array:
    return from_top(_codes(score), found)
