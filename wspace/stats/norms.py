"""Norms of whole leaves and along one axis, with finite gradients at zero; plain reductions, so any sharding stays."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from wspace.core.typing import Array

NOTHING = 1e-7  # an L1 norm below which a leaf counts as zero, and is not scaled: mergekit's number


def with_norm_of(kept: Array, w: Array) -> Array:
    """`kept` scaled to the L1 norm of w; as it is where either norm is next to nothing.

    >>> with_norm_of(jnp.array([3.0, 0.0]), jnp.array([3.0, -1.0]))
    Array([4., 0.], dtype=float32)
    """
    return kept * _ratio(kept, w)


@jax.jit
def _ratio(kept: Array, w: Array) -> Array:
    """A function of its own, so that the rest is entry-wise: leaves on the host then go in blocks."""
    before, after = jnp.sum(jnp.abs(w)), jnp.sum(jnp.abs(kept))
    there = (before >= NOTHING) & (after >= NOTHING)
    return jnp.where(there, before / jnp.where(there, after, 1), 1)


def length(x: Array, axis: int | None = None) -> Array:
    """The Euclidean norm of the whole, as a scalar, or along an axis, which stays; its gradient at zero is zero.

    >>> length(jnp.array([3.0, 4.0]))
    Array(5., dtype=float32)
    """
    squares = jnp.sum(x * x, axis=axis, keepdims=axis is not None)
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), squares)
