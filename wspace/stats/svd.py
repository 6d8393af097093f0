"""The singular value decomposition, for any numbers."""

from __future__ import annotations

import jax.numpy as jnp

from wspace.core.typing import Array


def svd(m: Array) -> tuple[Array, Array, Array]:
    """U, S, V' with m = U S V', as far as the smaller side goes; NaN throughout if m has NaN or an infinity.

    m: [..., n, k]. On a CPU the SVD of an infinity never comes back.

    >>> [float(x.sum()) for x in svd(jnp.array([[3.0, 0.0], [0.0, jnp.inf]]))]
    [nan, nan, nan]
    """
    known = jnp.isfinite(m).all(axis=(-2, -1), keepdims=True)
    u, s, vt = jnp.linalg.svd(jnp.where(known, m, jnp.asarray(jnp.nan, m.dtype)), full_matrices=False)
    return u, s, vt
