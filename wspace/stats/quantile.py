"""Exact order statistics of magnitudes by counting on the bit pattern: no sort, no ravel, the same on any sharding.

The bits of a non-negative float grow with its value, so the k-th largest |w| is found bit by bit: 32 counts of
"how many have at least these bits" (64 for float64), each a plain reduction that XLA partitions.
NaN ranks above infinity, so it is kept and stays visible.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from wspace.core.errors import ShapeError
from wspace.core.typing import Array

COUNTABLE = 2**32 - 1  # elements of one leaf that a uint32 can count


def magnitude_bits(w: Array) -> Array:
    """|w| as unsigned integers of the same order: uint32 for float32 and narrower, uint64 for float64."""
    wide = w.dtype == jnp.float64
    bits = lax.bitcast_convert_type(w if wide else w.astype(jnp.float32), jnp.uint64 if wide else jnp.uint32)
    return bits & jnp.asarray(~(1 << (63 if wide else 31)) & (2**64 - 1 if wide else 2**32 - 1), bits.dtype)


def from_bits(bits: Array) -> Array:
    """The inverse of `magnitude_bits`."""
    return lax.bitcast_convert_type(bits, jnp.float64 if bits.dtype == jnp.uint64 else jnp.float32)


def _count(mask: Array) -> Array:
    return jnp.sum(mask, dtype=jnp.uint32)


def kth_largest(codes: Array, k: Array) -> Array:
    """The k-th largest of unsigned integers, k = 1 .. size; for k = 0 all ones, which no magnitude reaches."""
    bits = 8 * codes.dtype.itemsize
    one = jnp.ones((), codes.dtype)

    def add_bit(i: Array, found: Array) -> Array:
        candidate = found | (one << (bits - 1 - i).astype(codes.dtype))
        return jnp.where(_count(codes >= candidate) >= k, candidate, found)

    found = lax.fori_loop(0, bits, add_bit, jnp.zeros((), codes.dtype))
    return jnp.where(k == 0, ~jnp.zeros((), codes.dtype), found)


@jax.jit
def kth_magnitude(w: Array, k: Array | int) -> Array:
    """The k-th largest |w|, exactly.

    Args:
      w: floating array of any shape. k: 1 .. w.size, traced.
    Returns:
      scalar of w's working dtype (float32, or float64).
    Example:
      >>> kth_magnitude(jnp.array([[3.0, -5.0], [1.0, 0.0]]), 2)
      Array(3., dtype=float32)
    """
    return from_bits(kth_largest(magnitude_bits(w), jnp.asarray(k, jnp.uint32)))


@jax.jit
def largest_mask(w: Array, keep: Array | int) -> Array:
    """True at exactly `keep` entries with the largest |w|; of equal magnitudes the first in row-major order stay.

    Args:
      w: floating array of any shape. keep: 0 .. w.size, traced.
    Returns:
      bool array of w's shape.
    Example:
      >>> largest_mask(jnp.array([1.0, -2.0, 1.0, 0.5]), 2)
      Array([ True,  True, False, False], dtype=bool)
    """
    keep = jnp.asarray(keep, jnp.uint32)
    codes = magnitude_bits(w)
    bound = kth_largest(codes, keep)
    above, tied = codes > bound, codes == bound
    room = keep - _count(above)

    def first_tied() -> Array:
        order = jnp.where(tied, ~row_major_index(w.shape), jnp.zeros((), jnp.uint32))
        return above | (tied & (order >= kth_largest(order, room)))

    return lax.cond(_count(tied) == room, lambda: above | tied, first_tied)


def row_major_index(shape: tuple[int, ...]) -> Array:
    """The position of each entry in row-major order, as uint32, without a ravel."""
    index, stride = jnp.zeros(shape, jnp.uint32), 1
    for axis in reversed(range(len(shape))):
        index = index + lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride)
        stride *= shape[axis]
    return index


def keep_largest(w: Array, keep: Array | int) -> Array:
    """w with all but its `keep` largest magnitudes set to zero.

    Raises:
      ShapeError: more elements than one count can hold (2^32 - 1).
    """
    if w.size > COUNTABLE:
        raise ShapeError(f"a leaf of {w.size} elements is more than can be ranked at once; split it along its stack axis")
    if w.size == 0:
        return w
    return jnp.where(largest_mask(w, keep), w, jnp.zeros((), w.dtype))


def count_of(fraction: Array | float, size: int, floor: bool = False) -> Array | int:
    """`fraction * size` as a count: rounded to nearest (half to even), or down. Exact for a Python number; a traced
    fraction is multiplied in float32."""
    if isinstance(fraction, int | float):
        exact = fraction * size
        return int(exact) if floor else round(exact)
    product = jnp.asarray(fraction, jnp.float32) * size
    return (jnp.floor(product) if floor else jnp.round(product)).astype(jnp.uint32)
