"""Correlation of what two models' matrices see: which unit of one fires like which unit of the other."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from wspace.core.fold import Fold
from wspace.core.typing import Array
from wspace.stats.gram import Diagonal, cross
from wspace.stats.moments import mean, variance
from wspace.stats.seen import Seen


@jax.jit
def correlation_array(cross: Array, mean_a: Array, mean_b: Array, var_a: Array, var_b: Array) -> Array:
    """Pearson correlation of every pair of units, 0 for a unit that never varies.

        (E[x_a x_b] - E[x_a] E[x_b]) / sqrt(var_a var_b)

    Args:
      cross: f32 [n, m], mean of x_a x_b over the data; the other four f32 [n] or [m], of a's and b's units.
    Returns:
      f32 [n, m], in -1..1 up to rounding.
    Example:
      >>> correlation_array(jnp.eye(2), jnp.zeros(2), jnp.zeros(2), jnp.ones(2), jnp.array([1.0, 0.0]))
      Array([[1., 0.],
             [0., 0.]], dtype=float32)
    """
    scale = jnp.sqrt(var_a)[:, None] * jnp.sqrt(var_b)[None, :]
    centred = cross - mean_a[:, None] * mean_b[None, :]
    return jnp.where(scale > 0, centred / jnp.where(scale > 0, scale, 1.0), 0.0)


class Pairs(NamedTuple):
    """The summaries of `cross`, and of `mean` and `variance` of either model."""

    cross: Any
    means: tuple[Any, Any]
    variances: tuple[Any, Any]


def correlation() -> Fold:
    """Pearson correlation over tokens, `[in, in]`: of what a matrix of one model sees with what the other model's does.

    Takes two models, as `cross` does. A table that is looked up sees the same in both: a Diagonal of ones.
    """
    return _CORRELATION


def _lift(a: Seen, b: Seen) -> Pairs:
    return Pairs(_CROSS.lift(a, b), (_MEAN.lift(a), _MEAN.lift(b)), (_VARIANCE.lift(a), _VARIANCE.lift(b)))


def _merge(s: Pairs, t: Pairs) -> Pairs:
    means = [_MEAN.merge(x, y) for x, y in zip(s.means, t.means, strict=True)]
    variances = [_VARIANCE.merge(x, y) for x, y in zip(s.variances, t.variances, strict=True)]
    return Pairs(_CROSS.merge(s.cross, t.cross), (means[0], means[1]), (variances[0], variances[1]))


def _finish(s: Pairs) -> Array | Diagonal:
    products = _CROSS.finish(s.cross)
    if isinstance(products, Diagonal):
        return Diagonal(jnp.ones_like(products.diagonal))
    return correlation_array(products, *map(_MEAN.finish, s.means), *map(_VARIANCE.finish, s.variances))


_CROSS, _MEAN, _VARIANCE = cross(), mean(), variance()
_CORRELATION = Fold(_lift, _merge, _finish, models=2)
