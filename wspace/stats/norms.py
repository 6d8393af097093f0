"""Norms of whole leaves and along one axis, with finite gradients at zero; plain reductions, so any sharding stays."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from wspace.core.totals import adds_up
from wspace.core.typing import Array

NOTHING = 1e-7  # an L1 norm below which a leaf counts as zero, and is not scaled: mergekit's number


def with_norm(w: Array, mask: Array) -> Array:
    """w where the mask is true and zero elsewhere, scaled to the L1 norm of the whole; not scaled where one of the two
    norms is next to nothing.

    >>> with_norm(jnp.array([3.0, -1.0]), jnp.array([True, False]))
    Array([4., 0.], dtype=float32)
    """
    return _masked(w, mask, *wspace_l1(w, mask))


@adds_up
def wspace_l1(w: Array, mask: Array) -> tuple[Array, Array]:
    """The sum of |w|, of all and where the mask is true."""
    sizes = jnp.abs(w)
    return jnp.sum(sizes), jnp.sum(jnp.where(mask, sizes, 0))


@jax.jit
def _masked(w: Array, mask: Array, before: Array, after: Array) -> Array:
    there = (before >= NOTHING) & (after >= NOTHING)
    scale = jnp.where(there, before / jnp.where(there, after, 1), 1)
    return jnp.where(mask, w * scale, jnp.zeros((), w.dtype))


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
