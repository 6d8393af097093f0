"""The formulas: whole arrays with the gradients of automatic differentiation, and blocks with those written down."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from wspace.core.typing import Array
from wspace_kernels.portable import magnitude, nearest


def limits(bits: int) -> tuple[int, int]:
    """The smallest and the largest code."""
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def rate(bits: int, group: int) -> float:
    """How much slower a step learns than its weights: g."""
    return float((group * limits(bits)[1]) ** -0.5)


def fake_quant(w: Array, step: Array | None, *, bits: int, group: int) -> Array:
    """w `[in, out]`, step `[in/group, out]` or None."""
    inputs, outputs = w.shape
    x = w.astype(jnp.float32).reshape(inputs // group, group, outputs)
    if step is None:
        fixed = lax.stop_gradient(x)
        seen = x + (rounded(fixed, step_of(jnp.max(magnitude(fixed), axis=1, keepdims=True), bits), bits) - fixed)
    else:
        slow = rate(bits, group)
        s = step.astype(jnp.float32)
        s = (lax.stop_gradient(s - s * slow) + s * slow)[:, None]
        v = clipped(x / s, bits)
        seen = (v + lax.stop_gradient(jnp.round(v) - v)) * s
    return seen.reshape(w.shape).astype(w.dtype)


def step_of(most: Array, bits: int) -> Array:
    """The step of weights up to this magnitude: 1 if they are zero, NaN if they are not finite."""
    size = most / limits(bits)[1]
    least = jnp.maximum(size, float(jnp.finfo(jnp.float32).tiny))
    return jnp.where(size == 0, 1, jnp.where(size < jnp.inf, least, jnp.nan))


def rounded(x: Array, s: Array, bits: int) -> Array:
    """On the grid, float32."""
    return nearest(clipped(x / s, bits)) * s


def clipped(v: Array, bits: int) -> Array:
    """Drawn into the range of codes; NaN stays."""
    low, high = limits(bits)
    return jnp.where(v < low, float(low), jnp.where(v > high, float(high), v))


def slopes_of(x: Array, s: Array, slope: Array, bits: int) -> tuple[Array, Array]:
    """For each entry, what reaches it and what it adds to the gradient of its step (but for g), float32."""
    low, high = limits(bits)
    v = x / s
    free = (v >= low) & (v <= high)
    seen = nearest(clipped(v, bits))
    return jnp.where(free, slope, 0), slope * (seen - jnp.where(free, v, 0))
