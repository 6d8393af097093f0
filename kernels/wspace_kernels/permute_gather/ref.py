"""The rows in full, then a product."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from wspace.core.typing import Array


def permute_gather(a: Array, b: Array, permutation: Array) -> Array:
    """a `[rows, n]`, b `[others, m]`, permutation `[rows]`; `[n, m]`."""
    return product(a, jnp.take(b, permutation, axis=0, mode="clip"))


def product(a: Array, b: Array) -> Array:
    """a^T b, summed in float32 at least; float32 is meant as such."""
    wide = jnp.float64 if a.dtype == jnp.float64 else jnp.float32
    exact = lax.Precision.HIGHEST if a.dtype in (jnp.float32, jnp.float64) else lax.Precision.DEFAULT
    return lax.dot_general(a, b, (((0,), (0,)), ((), ())), precision=exact, preferred_element_type=wide)
