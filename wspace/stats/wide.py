"""Counts beyond 32 bits as pairs of uint32: 64-bit integers exist in JAX only in a mode that changes other dtypes too.

A model can have more weights than a uint32 counts (4.3 billion). One leaf has not, so only sums over leaves are wide.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from wspace.core.typing import Array

LOW = 2**32 - 1


class Wide(NamedTuple):
    """`high * 2^32 + low`, element-wise; both uint32 of one shape."""

    high: Array
    low: Array


def wide(n: int | Array) -> Wide:
    """A Python integer below 2^64, or an array of uint32, as a wide count.

    >>> [int(part) for part in wide(2**33 + 5)]
    [2, 5]
    """
    if isinstance(n, int):
        return Wide(jnp.asarray(n >> 32, jnp.uint32), jnp.asarray(n & LOW, jnp.uint32))
    return Wide(jnp.zeros_like(n), n)


def plus(a: Wide, b: Wide) -> Wide:
    """a + b."""
    low = a.low + b.low
    return Wide(a.high + b.high + (low < a.low).astype(jnp.uint32), low)


def minus(a: Wide, b: Wide) -> Wide:
    """a - b, for a >= b."""
    return Wide(a.high - b.high - (a.low < b.low).astype(jnp.uint32), a.low - b.low)


def at_least(a: Wide, b: Wide) -> Array:
    """a >= b, as bool."""
    return (a.high > b.high) | ((a.high == b.high) & (a.low >= b.low))


def total(counts: Wide) -> Wide:
    """The sum over the last axis of at most 2^16 counts. Halves of 16 bits are summed apart, so nothing overflows."""
    half = jnp.uint32(2**16 - 1)
    small = jnp.sum(counts.low & half, axis=-1, dtype=jnp.uint32)
    large = jnp.sum(counts.low >> 16, axis=-1, dtype=jnp.uint32)
    rest = Wide(jnp.sum(counts.high, axis=-1, dtype=jnp.uint32) + (large >> 16), large << 16)
    return plus(wide(small), rest)
