"""Norms of whole leaves and along one axis, with finite gradients at zero; plain reductions, so any sharding stays."""

from __future__ import annotations

import jax.numpy as jnp

from wspace.core.totals import adds_up
from wspace.core.typing import Array

NOTHING = 1e-7  # an L1 norm below which a leaf counts as zero, and is not scaled: mergekit's number


def with_norm_of(kept: Array, w: Array) -> Array:
    """`kept` scaled to the L1 norm of w; as it is where either norm is next to nothing.

    >>> with_norm_of(jnp.array([3.0, 0.0]), jnp.array([3.0, -1.0]))
    Array([4., 0.], dtype=float32)
    """
    return kept * _ratio(kept, w)


def _ratio(kept: Array, w: Array) -> Array:
    after, before = wspace_l1(kept, w)
    there = (before >= NOTHING) & (after >= NOTHING)
    return jnp.where(there, before / jnp.where(there, after, 1), 1)


@adds_up
def wspace_l1(*arrays: Array) -> tuple[Array, ...]:
    """The sum of |x| of each array."""
    return tuple(jnp.sum(jnp.abs(x)) for x in arrays)


@adds_up
def wspace_squares(x: Array) -> Array:
    """The sum of x^2."""
    return jnp.sum(x * x)


def length(x: Array, axis: int | None = None) -> Array:
    """The Euclidean norm of the whole, as a scalar, or along an axis, which stays; its gradient at zero is zero.

    >>> length(jnp.array([3.0, 4.0]))
    Array(5., dtype=float32)
    """
    squares = wspace_squares(x) if axis is None else jnp.sum(x * x, axis=axis, keepdims=True)
    return root(squares)


def root(x: Array) -> Array:
    """The square root of numbers that are not negative; its gradient at zero is zero."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), x)
