"""jax's own softmax in float32, and what the kernels share."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from wspace.core.typing import Array

LOWEST = float(jnp.finfo(jnp.float32).min)  # where a maximum starts: from -infinity, the first difference would be NaN


def two_pass_softmax(x: Array) -> Array:
    """x `[rows, n]`."""
    return jax.nn.softmax(_widened(x), axis=-1).astype(x.dtype)


def slope(y: Array, g: Array) -> Array:
    """The gradient, from the result: y (g - sum y g)."""
    wide, up = _widened(y), _widened(g)
    return (wide * (up - jnp.sum(wide * up, axis=-1, keepdims=True))).astype(y.dtype)


def _widened(x: Array) -> Array:
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def joined(most: Array, total: Array, axis: int) -> tuple[Array, Array]:
    """The fold of many pairs (maximum, sum) along an axis, which stays, of size 1."""
    top = jnp.max(most, axis=axis, keepdims=True)
    return top, jnp.sum(total * jnp.exp(most - top), axis=axis, keepdims=True)
