"""What all platforms have to compute alike, so that each can: Triton has no rounding, and its maxima skip NaN."""

from __future__ import annotations

import jax.numpy as jnp

from wspace.core.typing import Array


def magnitude(x: Array) -> Array:
    """|x|, and infinity for NaN, so that a maximum does not pass it over, as Triton's does."""
    return jnp.where(x == x, jnp.abs(x), jnp.inf)


def nearest(x: Array) -> Array:
    """Whole numbers, half to even: `jnp.round` for Triton, which has none."""
    below = jnp.floor(x)
    part, half = x - below, below * 0.5
    return jnp.where((part > 0.5) | ((part == 0.5) & (half != jnp.floor(half))), below + 1, below)
