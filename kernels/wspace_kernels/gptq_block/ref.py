"""Input after input of a whole matrix."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from wspace.core.typing import Array
from wspace_kernels.portable import nearest


def gptq_block(w: Array, factor: Array, scale: Array, zero: Array | None, *, bits: int) -> tuple[Array, Array, Array]:
    """codes int8, made and errors float32, `[block, out]`."""
    w, factor, scale = (x.astype(jnp.float32) for x in (w, factor, scale))
    group = w.shape[0] // scale.shape[0]
    shift = jnp.zeros_like(scale) if zero is None else zero.astype(jnp.float32)

    def step(w: Array, i: Array) -> tuple[Array, tuple[Array, Array, Array]]:
        row, across, s, z = (
            lax.dynamic_index_in_dim(x, at, keepdims=False)
            for x, at in ((w, i), (factor, i), (scale, i // group), (shift, i // group))
        )
        codes, made = rounded(row, s, z, bits)
        error = (row - made) / across[i]
        return w - across[:, None] * error[None], (codes.astype(jnp.int8), made, error)

    return lax.scan(step, w, jnp.arange(w.shape[0]))[1]


def rounded(w: Array, scale: Array, zero: Array, bits: int) -> tuple[Array, Array]:
    """Codes, as int32, and what they stand for."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    place = w * (1 / scale) + zero
    inside = jnp.where(place > high, float(high), jnp.where(place >= low, place, float(low)))
    codes = jnp.where(place == place, nearest(inside), 0)
    return codes.astype(jnp.int32), (codes - zero) * scale
