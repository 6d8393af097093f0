"""Scatter-add, and what the kernels share with it: the digits, and counts of them as a product of matrices."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from wspace.core.typing import Array
from wspace.stats.quantile import magnitude_bits
from wspace.stats.sharding import whole

DIGIT = 8  # bits that one pass resolves
BINS = 2**DIGIT
HALF = 2 ** (DIGIT // 2)


def word(dtype: Any) -> np.dtype[Any]:
    """The unsigned integer that holds the pattern."""
    return np.dtype(np.uint64 if dtype in (jnp.float64, jnp.uint64) else np.uint32)


def radix_count(x: Array, prefix: Array, *, shift: int, rows: bool) -> Array:
    """x of any shape and prefix `[1]`, or x `[rows, n]` and prefix `[rows]`; `[1 or rows, 256]`."""
    rest = (magnitude_bits(x) if jnp.issubdtype(x.dtype, jnp.floating) else x) >> shift
    above = prefix[:, None] if rows else prefix.reshape((1,) * x.ndim)
    digit = (rest & (BINS - 1)).astype(jnp.int32)
    alike = (rest >> DIGIT == above).astype(jnp.uint32)
    if not rows:
        return jnp.zeros((BINS,), jnp.uint32).at[digit].add(alike, out_sharding=whole(digit))[None]
    row = lax.broadcasted_iota(jnp.int32, digit.shape, 0)
    return jnp.zeros((x.shape[0], BINS), jnp.uint32).at[row, digit].add(alike)


def digits(x: Array, prefix: Any, inside: Array, shift: int) -> Array:
    """The digit of each entry, int32; -1 where it isn't counted. prefix int32, shaped to go with x."""
    bits = x
    if jnp.issubdtype(x.dtype, jnp.floating):
        bits = lax.bitcast_convert_type(x.astype(jnp.float32), jnp.int32) & jnp.int32(2**31 - 1)
    rest = lax.shift_right_logical(bits, jnp.full(bits.shape, shift, jnp.int32))
    above = lax.shift_right_logical(rest, jnp.full(bits.shape, DIGIT, jnp.int32))
    return jnp.where(inside & (above == prefix), rest & (BINS - 1), -1)


def is_half(half: Array, axis: int) -> Array:
    """Half a digit of each of n entries as a row or column of 16 zeros and ones, bfloat16 `[16, n]` or `[n, 16]`.

    The upper halves times the lower ones, summed over the entries, are the counts: 32 comparisons and a product that a
    matrix unit makes, in place of 256 comparisons.
    """
    shape = (HALF, half.shape[0]) if axis == 0 else (half.shape[0], HALF)
    places = lax.broadcasted_iota(jnp.int32, shape, axis)
    return jnp.where(jnp.expand_dims(half, axis) == places, 1.0, 0.0).astype(jnp.bfloat16)


def signed(x: Array) -> Array:
    """Unsigned words as the integers that the kernels compute with."""
    return x if jnp.issubdtype(x.dtype, jnp.floating) else lax.bitcast_convert_type(x, jnp.int32)
