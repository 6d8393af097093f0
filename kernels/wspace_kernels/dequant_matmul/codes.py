"""Codes of four bits, two in a byte, and what they stand for; on whole arrays or on blocks in a kernel.

Packed in halves: byte `[r, o]` has the code of input r in its low four bits and that of input in/2 + r in its high
ones. Each half is then a block of rows, where neighbours in one byte would have to be interleaved again.
"""

from __future__ import annotations

import jax.numpy as jnp

from wspace.core.typing import Array

Levels = tuple[float, ...] | None


def pack(codes: Array) -> Array:
    """int8 or uint8 codes `[..., in, out]` below 16, or from -8 to 7, as uint8 `[..., in/2, out]`.

    >>> pack(jnp.array([[1], [-1]], jnp.int8))
    Array([[241]], dtype=uint8)
    """
    half = codes.shape[-2] // 2
    low, high = (c.astype(jnp.uint8) & jnp.uint8(15) for c in (codes[..., :half, :], codes[..., half:, :]))
    return low | (high << jnp.uint8(4))


def halves(codes: Array, signed: bool) -> tuple[Array, Array]:
    """The low and the high codes of packed ones, int32."""
    wide = codes.astype(jnp.int32)
    low, high = wide & 15, (wide >> 4) & 15
    return ((low ^ 8) - 8, (high ^ 8) - 8) if signed else (low, high)


def values(codes: Array, levels: Levels) -> Array:
    """What codes stand for before they are scaled, float32: themselves, or the level of each, by its bits."""
    if levels is None:
        return codes.astype(jnp.float32)
    table = [jnp.float32(x) for x in (*levels, *(0.0,) * (16 - len(levels)))]
    found: list[Array] = [*table]
    for bit in range(4):
        odd = (codes >> bit) & 1 == 1
        found = [jnp.where(odd, b, a) for a, b in zip(found[::2], found[1::2], strict=True)]
    return found[0]
