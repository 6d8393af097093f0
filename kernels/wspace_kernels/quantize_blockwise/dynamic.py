"""The dynamic map in closed form: no table, so that a kernel needs no gather. On whole arrays or on blocks.

Decade i = 0..6 is [10^(i-7), 10^(i-6)], cut in parts of equal size whose middles are the numbers: 2^i parts on the map
with signs, 2^(i+1) on the one without. Beside them 0 and 1. Counted from 1 (or 2, without signs), part k of decade i is
number 2^i + k (or 2^(i+1) + k): the code is a float of its own, leading one and fraction.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from wspace.core.typing import Array

DECADES = 7
ZERO = 127  # the code of 0 on the map with signs


def _middle(i: int, k: int, parts: int) -> float:
    """Number k of decade i."""
    return 10.0 ** (i - 6) * (0.1 + 0.9 * (k + 0.5) / parts)


def encode(x: Array, signed: bool) -> Array:
    """The codes of the nearest numbers, int32; x: float32 in -1..1 (0..1 without signs). NaN is coded as 0."""
    size = jnp.abs(x)
    count = jnp.zeros_like(x)
    below = 0.0
    for i in range(DECADES):
        parts = 2**i if signed else 2 ** (i + 1)
        edge = (below + _middle(i, 0, parts)) / 2
        place = (size * 10.0 ** (6 - i) - 0.1) * (parts / 0.9)
        count = jnp.where(size > edge, parts + jnp.clip(jnp.floor(place), 0, parts - 1), count)
        below = _middle(i, parts - 1, parts)
    top = size > (below + 1) / 2
    count = count.astype(jnp.int32)
    if signed:
        return jnp.where(x < 0, ZERO - count, ZERO + jnp.where(top, 128, count))
    return jnp.where(top, 255, jnp.maximum(count - 1, 0))


def decode(codes: Array, signed: bool) -> Array:
    """The numbers of codes, float32; codes: int32, 0..255."""
    count = jnp.abs(codes - ZERO) if signed else codes + 1
    number = count.astype(jnp.float32)
    exponent = (lax.bitcast_convert_type(number, jnp.int32) >> 23) - 127
    part = lax.bitcast_convert_type((127 - exponent) << 23, jnp.float32)  # 2^-exponent
    fraction = (number + 0.5) * part - 1
    power = jnp.float32(1e-6)
    for i in range(1, DECADES):
        power = jnp.where(exponent >= (i if signed else i + 1), jnp.float32(10.0 ** (i - 6)), power)
    size = jnp.where(count < (1 if signed else 2), 0, power * (0.1 + 0.9 * fraction))
    size = jnp.where(count == (128 if signed else 256), 1, size)
    return jnp.where(codes < ZERO, -size, size) if signed else size
