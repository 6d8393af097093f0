"""Exact order statistics of magnitudes by counting on the bit pattern: no sort, no ravel, the same on any sharding.

The bits of a non-negative float grow with its value, so the k-th largest |w| is found bit by bit: 32 counts of
"how many have at least these bits" (64 for float64), each a plain reduction that XLA partitions. On CPU, where a pass
over a large leaf costs more than a histogram, 16 bits at a time: 2 histograms (4 for float64). On one TPU or GPU,
8 bits at a time: 4 passes of the kernel `radix_count`.
NaN ranks above infinity, so it is kept and stays visible.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from wspace.core.errors import ShapeError, WspaceError
from wspace.core.select import Spec
from wspace.core.twins import after_a_look
from wspace.core.typing import Array
from wspace.stats.histogram import DIGIT, histogram, largest_digit
from wspace.stats.host_ranks import last_of_largest
from wspace.stats.wide import wide

COUNTABLE = 2**32 - 1  # elements of one leaf that a uint32 can count
LARGE = 2**20  # elements from which histograms beat passes on CPU: 7 against 17 ms, at 2^24 0.26 against 1.5 s


def magnitude_bits(w: Array) -> Array:
    """|w| as unsigned integers of the same order: uint32 for float32 and narrower, uint64 for float64."""
    wide = w.dtype == jnp.float64
    bits = lax.bitcast_convert_type(w if wide else w.astype(jnp.float32), jnp.uint64 if wide else jnp.uint32)
    return bits & jnp.asarray(~(1 << (63 if wide else 31)) & (2**64 - 1 if wide else 2**32 - 1), bits.dtype)


def from_bits(bits: Array) -> Array:
    """The inverse of `magnitude_bits`."""
    return lax.bitcast_convert_type(bits, jnp.float64 if bits.dtype == jnp.uint64 else jnp.float32)


def settled(x: Array) -> Array:
    """|x|, computed once: for a score of several operations, before it is ranked.

    XLA computes what is cheap anew wherever it is used, and may then contract a product and a sum here and not there.
    A score that rounds one way where it is counted and another way where it is compared has no k-th largest entry. What
    comes out of a loop is never computed anew (on CPU a barrier doesn't last until then).
    """
    bits = magnitude_bits(x)
    most = jnp.asarray(jnp.iinfo(bits.dtype).max >> 1, bits.dtype)
    return from_bits(lax.fori_loop(0, 2, lambda _, b: b & most, bits))  # twice: a loop of one turn is inlined


def count(mask: Array, axis: int | tuple[int, ...] | None = None) -> Array:
    """How many entries of a mask are true, in all or along axes (which stay, of size 1), as uint32."""
    return jnp.sum(mask, axis=axis, keepdims=axis is not None, dtype=jnp.uint32)


class Found(NamedTuple):
    """The k-th largest code; as which of the entries with that code it was found; and how many they are."""

    code: Array
    room: Array
    tied: Array


def kth_largest(codes: Array, k: Array) -> Found:
    """The k-th largest of unsigned integers, k = 1 .. size. For k = 0 all ones, which no magnitude is."""
    if codes.size < LARGE:
        return _by_bits(codes, k)
    return lax.platform_dependent(codes, k, cpu=_by_histograms, default=_by_kernel)


def _by_histograms(codes: Array, k: Array) -> Found:
    def counts(shift: int, above: Array) -> Array:
        rest = codes >> shift
        return histogram(rest & (2**DIGIT - 1), (rest >> DIGIT) == above)

    return _by_digits(codes, k, DIGIT, counts)


def _by_kernel(codes: Array, k: Array) -> Found:
    """Where the platform's kernel takes these codes; else bit by bit."""
    from wspace_kernels.radix_count.api import fast  # it stands on this file

    counts = fast(codes)
    return _by_bits(codes, k) if counts is None else _by_digits(codes, k, 8, counts)


def _by_digits(codes: Array, k: Array, width: int, counts_of: Callable[[int, Array], Array]) -> Found:
    """counts_of: (shift, above) -> how often each digit of `width` bits occurs in codes with these bits above it."""
    code, room, tied = jnp.zeros((), codes.dtype), wide(k), jnp.zeros((), jnp.uint32)
    for shift in range(8 * codes.dtype.itemsize - width, -1, -width):
        counts = counts_of(shift, code >> shift >> width)
        digit, room = largest_digit(wide(counts), room)
        code, tied = code | (digit.astype(codes.dtype) << shift), counts[digit]
    return Found(code, room.low, tied)


def _by_bits(codes: Array, k: Array, axis: int | tuple[int, ...] | None = None) -> Found:
    bits = 8 * codes.dtype.itemsize
    one = jnp.ones((), codes.dtype)

    def add_bit(i: Array, found: Array) -> Array:
        candidate = found | (one << (bits - 1 - i).astype(codes.dtype))
        return jnp.where(count(codes >= candidate, axis) >= k, candidate, found)

    code = lax.fori_loop(0, bits, add_bit, jnp.zeros_like(count(codes > 0, axis), codes.dtype))
    return Found(code, k - count(codes > code, axis), count(codes == code, axis))


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
    return from_bits(kth_largest(magnitude_bits(w), jnp.asarray(k, jnp.uint32)).code)


def kth_along(x: Array, k: Array | int, axis: int | tuple[int, ...]) -> Array:
    """The k-th largest |x| along axes, exactly; they stay, of size 1.

    Example:
      >>> kth_along(jnp.array([[1.0, -5.0, 2.0], [0.0, 3.0, -4.0]]), 2, -1).ravel()
      Array([2., 3.], dtype=float32)
    """
    return from_bits(_by_bits(magnitude_bits(x), jnp.asarray(k, jnp.uint32), axis).code)


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
    return largest_codes(magnitude_bits(w), keep)


def largest_codes(codes: Array, keep: Array | int) -> Array:
    """`largest_mask` of the numbers with these `magnitude_bits`; several masks of the same are found together."""
    return wspace_largest_codes(codes, jnp.asarray(keep, jnp.uint32))


@jax.jit
def wspace_largest_codes(codes: Array, keep: Array) -> Array:
    """The same under the name by which what stands for it in blocks is found."""
    return from_top(codes, kth_largest(codes, keep))


@after_a_look("wspace_largest_codes", last_of_largest)
def _mask_of_block(start: Array, last: tuple[Array, Array], codes: Array, keep: Array) -> Array:
    """The same for a block, given the smallest magnitude that stays and where the last entry with it is that does."""
    code, place = last
    return (codes > code) | ((codes == code) & (start + lax.iota(jnp.uint32, codes.size) <= place))


def from_top(codes: Array, found: Found) -> Array:
    """The mask of all codes above the one found, and of the first `room` of those equal to it, in row-major order."""
    code, room, tied = found
    return lax.cond(
        tied == room,
        lambda: codes >= code,
        lambda: (codes > code) | _first_of(codes == code, room),
    )


def _first_of(mask: Array, room: Array) -> Array:
    order = jnp.where(mask, ~row_major_index(mask.shape), jnp.zeros((), jnp.uint32))
    return mask & (order >= kth_largest(order, room).code) & (room > 0)


@jax.jit
def largest_in_columns(x: Array, keep: Array | int) -> Array:
    """True at the `keep` largest |x| of every column of `[..., rows, columns]`; of equal ones the first rows stay.

    Example:
      >>> largest_in_columns(jnp.array([[1.0, 5.0], [1.0, -6.0], [0.0, 7.0]]), 1).T
      Array([[ True, False, False],
             [False, False,  True]], dtype=bool)
    """
    codes = magnitude_bits(x)
    code, room, _ = _by_bits(codes, jnp.asarray(keep, jnp.uint32), axis=-2)
    order = jnp.where(codes == code, ~lax.broadcasted_iota(jnp.uint32, x.shape, x.ndim - 2), jnp.zeros((), jnp.uint32))
    last = _by_bits(order, room, axis=-2).code
    return (codes > code) | ((codes == code) & (order >= last) & (room > 0))


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
    check_countable(w)
    if w.size == 0:
        return w
    return jnp.where(largest_mask(w, keep), w, jnp.zeros((), w.dtype))


def check_countable(w: Array, spec: Spec | None = None) -> None:
    """Raises ShapeError if a leaf has more elements than a uint32 counts. spec: of the leaf, for its path."""
    if w.size > COUNTABLE:
        leaf = "a leaf" if spec is None else spec.path
        raise ShapeError(
            f"{leaf} of {w.size} elements is more than can be ranked at once; split it along its stack axis"
        )


def count_of(fraction: Array | float, size: int, floor: bool = False) -> Array | int:
    """`fraction * size` as a count: rounded to nearest (half to even), or down. Exact for a Python number; a traced
    fraction is multiplied in float32.

    Raises:
      WspaceError: a Python number that is no fraction.
    """
    if isinstance(fraction, int | float):
        exact = check_fraction(fraction) * size
        return int(exact) if floor else round(exact)
    product = jnp.asarray(fraction, jnp.float32) * float(size)
    return jnp.minimum((jnp.floor(product) if floor else jnp.round(product)).astype(jnp.uint32), jnp.uint32(size))


def check_fraction(fraction: float) -> float:
    """Raises WspaceError if a Python number is not within 0..1."""
    if not 0 <= fraction <= 1:
        raise WspaceError(f"{fraction} is no fraction of a leaf; sparsity and density are within 0..1")
    return fraction
