"""Histograms of codes by scatter-add: every device counts its own shard, the counts are added up."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from wspace.core.typing import Array
from wspace.stats.sharding import whole
from wspace.stats.wide import Wide, at_least, minus, total

DIGIT = 16  # bits that one histogram resolves
BINS = 2**DIGIT


def histogram(digits: Array, counted: Array | None = None) -> Array:
    """How often each of 0 .. 2^16 - 1 occurs, where `counted` is true. `[2^16]` uint32."""
    ones = jnp.ones(digits.shape, jnp.uint32) if counted is None else counted.astype(jnp.uint32)
    return jnp.zeros((BINS,), jnp.uint32).at[digits.astype(jnp.int32)].add(ones, out_sharding=whole(digits))


def largest_digit(counts: Wide, room: Wide) -> tuple[Array, Wide]:
    """In which bin the `room`-th largest lies, and as which of that bin's members, from the top.

    counts: `[2^width]`, how often each digit occurs, width <= 16. For room = 0 the last bin, and 0.
    """
    width = counts.low.size.bit_length() - 1
    bins = jnp.arange(2**width, dtype=jnp.uint32)

    def from_bin(digit: Array) -> Wide:
        inside = bins >= digit
        return total(Wide(jnp.where(inside, counts.high, 0), jnp.where(inside, counts.low, 0)))

    def add_bit(i: Array, digit: Array) -> Array:
        candidate = digit | (jnp.uint32(1) << (width - 1 - i).astype(jnp.uint32))
        return jnp.where(at_least(from_bin(candidate), room), candidate, digit)

    digit = lax.fori_loop(0, width, add_bit, jnp.zeros((), jnp.uint32))
    return digit, minus(room, from_bin(digit + 1))
