"""The polar factor of a matrix: its directions without its lengths."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from wspace.core.typing import Array
from wspace.stats.svd import svd


@jax.jit
def polar(m: Array) -> Array:
    """U V' of m = U S V', over the singular values above rounding: the nearest matrix whose columns are orthonormal.

    m: [n, k]. Where m has no direction, neither has the result: U V' there would be what the SVD happens to return.

    >>> polar(jnp.array([[0.0, 2.0], [-3.0, 0.0]])).round(5) + 0.0
    Array([[ 0.,  1.],
           [-1.,  0.]], dtype=float32)
    """
    u, s, vt = svd(m)
    return jnp.matmul(u * live(s, m.shape)[None], vt, precision=lax.Precision.HIGHEST)


def live(s: Array, shape: tuple[int, ...]) -> Array:
    """1 for the singular values of a matrix of this shape that are more than rounding, 0 for others, in their dtype."""
    return (s > jnp.finfo(s.dtype).eps * max(shape) * jnp.max(s, initial=0)).astype(s.dtype)
