"""Products in which some numbers are known beforehand, half by half, so that most of these are not computed.

Halving k times saves (1 - 1/2^k) / 2 of a product; that pays off for matrices of thousands of rows.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from wspace.core.transform import working_dtype
from wspace.core.typing import Array

MANY, HALVINGS = 2048, 3  # rows from which on halving pays off, and how often


def product(x: Array, y: Array) -> Array:
    """x y at full precision, float32 at least."""
    wide = working_dtype(x.dtype, y.dtype)
    return jnp.matmul(x, y, precision=lax.Precision.HIGHEST, preferred_element_type=wide)


def symmetric_product(x: Array, y: Array, halvings: int) -> Array:
    """x^T y of x and y `[rows, n]` whose product is symmetric: what is below the diagonal is what is above it.

    >>> x = jnp.array([[1.0, 2.0, 3.0]])
    >>> symmetric_product(x, x, halvings=1)
    Array([[1., 2., 3.],
           [2., 4., 6.],
           [3., 6., 9.]], dtype=float32)
    """
    if not halvings:
        return product(x.T, y)
    half = x.shape[1] // 2
    across = product(x[:, :half].T, y[:, half:])
    first, last = (symmetric_product(x[:, s], y[:, s], halvings - 1) for s in (slice(half), slice(half, None)))
    return joined(first, across, across.T, last)


def quadratic(gram: Array, e: Array, halvings: int) -> Array:
    """tr(e^T gram e) of a symmetric gram `[n, n]` and e `[n, columns]`.

    >>> quadratic(jnp.array([[2.0, 1.0], [1.0, 3.0]]), jnp.array([[1.0], [2.0]]), halvings=1)
    Array(18., dtype=float32)
    """
    if not halvings:
        return jnp.sum(e * product(gram, e))
    half = len(gram) // 2
    across = jnp.sum(e[:half] * product(gram[:half, half:], e[half:]))
    first, last = (quadratic(gram[s, s], e[s], halvings - 1) for s in (slice(half), slice(half, None)))
    return first + 2 * across + last


def joined(a: Array, b: Array, c: Array, d: Array) -> Array:
    """The matrix of four blocks."""
    return jnp.concatenate([jnp.concatenate([a, b], axis=1), jnp.concatenate([c, d], axis=1)])
