"""Moments of what a matrix sees, one number an input: mean, |mean|, mean square, largest, variance."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from wspace.core.fold import Fold
from wspace.core.typing import Array
from wspace.stats.seen import Lookup, Rows, Seen


class Total(NamedTuple):
    """Sum over tokens and sum of their weights, both f32 `[in]`."""

    total: Array
    tokens: Array


class Spread(NamedTuple):
    """Number of tokens; a centre near their mean, and the mean less it; sum of squared distances from the mean. All
    f32 `[in]`. Kept apart so, a mean far from zero costs no digits."""

    tokens: Array
    center: Array
    mean: Array
    around: Array


def mean() -> Fold:
    """Mean of x over tokens, `[in]`.

    Example:
      >>> f = mean()
      >>> f.finish(f.lift(Seen(Rows(jnp.array([[1.0, 2.0], [3.0, 0.0]]), jnp.array([1.0, 0.0])), None)))
      Array([1., 2.], dtype=float32)
    """
    return _mean_of(jnp.positive)


def abs_mean() -> Fold:
    """Mean of |x| over tokens, `[in]`."""
    return _mean_of(jnp.abs)


def mean_square() -> Fold:
    """Mean of x² over tokens, `[in]`: the diagonal of the Gram matrix, without the matrix."""
    return _mean_of(jnp.square)


def abs_max() -> Fold:
    """Largest |x| over the tokens whose weight is not 0, `[in]`."""
    return Fold(_largest, jnp.maximum)


def variance() -> Fold:
    """Variance of x over tokens, `[in]`: divided by their number, and centred first, so a large mean costs no digits.

    Reference: Chan, Golub, LeVeque, 1979, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances".
    """
    return Fold(_spread, _merged, _variance)


@functools.cache
def _mean_of(f: Callable[[Array], Array]) -> Fold:
    """The mean of f(x); f keeps 0 and 1, which is all that a looked-up row has."""

    def lift(seen: Seen) -> Total:
        return Total(_total(seen.inputs, f), seen.inputs.tokens())

    return Fold(lift, lambda a, b: jax.tree.map(jnp.add, a, b), lambda s: s.total / _positive(s.tokens))


def _total(rows: Rows | Lookup, f: Callable[[Array], Array]) -> Array:
    return rows.counts() if isinstance(rows, Lookup) else _sum(rows, f(rows.wide()))


def _sum(rows: Rows, x: Array) -> Array:
    return jnp.sum(rows.weigh(x), axis=tuple(range(x.ndim - 1)))


def _positive(n: Array) -> Array:
    """A divisor: 1 where nothing was counted."""
    return jnp.where(n > 0, n, jnp.ones_like(n))


def _largest(seen: Seen) -> Array:
    rows = seen.inputs
    if isinstance(rows, Lookup):
        return (rows.counts() > 0).astype(jnp.float32)
    x = jnp.abs(rows.wide())
    return jnp.max(x, axis=tuple(range(x.ndim - 1)), initial=0)


def _spread(seen: Seen) -> Spread:
    rows = seen.inputs
    n = rows.tokens()
    center = _total(rows, jnp.positive) / _positive(n)
    if isinstance(rows, Lookup):
        return Spread(n, center, jnp.zeros_like(n), n * center * (1 - center))
    here = jnp.ones_like(n) if rows.present is None else rows.present
    apart = rows.wide() - jnp.broadcast_to(center, rows.values.shape)
    rest = _sum(rows, apart) / _positive(n) * here
    around = _sum(rows, jnp.square(apart - jnp.broadcast_to(rest, apart.shape))) * here
    return Spread(n, center, rest, around)


def _merged(a: Spread, b: Spread) -> Spread:
    n = a.tokens + b.tokens
    center = jnp.where(a.tokens > 0, a.center, b.center)
    mean_a, mean_b = (s.center - center + s.mean for s in (a, b))
    step, share = mean_b - mean_a, b.tokens / _positive(n)
    step = jnp.where(a.tokens > 0, step, jnp.zeros_like(step))
    mean_a = jnp.where(a.tokens > 0, mean_a, mean_b)
    return Spread(n, center, mean_a + step * share, a.around + b.around + jnp.square(step) * a.tokens * share)


def _variance(s: Spread) -> Array:
    return s.around / _positive(s.tokens)
