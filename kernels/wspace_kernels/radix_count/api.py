"""How often each digit of eight bits occurs in magnitudes that agree in all bits above it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from wspace.core.errors import ShapeError
from wspace.core.typing import Array
from wspace_kernels.blocks import matrix
from wspace_kernels.dispatch import Choice, Implementation, choose
from wspace_kernels.radix_count.ref import BINS, DIGIT, word


def radix_count(
    x: Array, prefix: Array | int = 0, *, shift: int, rows: bool = False, implementation: Implementation = None
) -> Array:
    """One pass of a radix selection: a histogram of the magnitudes' bit patterns, which are ordered as they are.

        c_d = #{i : b_i >> shift = 256 prefix + d},   d = 0 .. 255,   b = bits of |x| (of x, if unsigned integers)

    Four passes, shift = 24, 16, 8, 0, find the exact k-th largest of any number of entries; `wspace.stats.quantile`
    does, on accelerators. Of bfloat16 two are enough: below bit 16 there are zeros.

    Args:
      x: `[..., n]`, floating (magnitudes count, in float32 unless x is float64) or uint32 or uint64 (as they are).
      prefix: what the bits above the digit have to be: a number, or `[...]` with `rows`. Traced, in steps.
      shift: bits below the digit: a multiple of 8 within the pattern. Static.
      rows: count each row by itself. Static.
      implementation: None, "ref", "tpu" or "gpu". Static.
    Returns:
      uint32 `[256]`, or `[..., 256]` with `rows`.
    Raises:
      ShapeError: shift is no digit's; prefix is neither one number nor one a row; a dtype that has no such pattern. As
        `dispatch.choose` for a named implementation.
    Example:
      >>> counts = radix_count(jnp.array([1.0, -1.5, 3.0, -4.0]), 0, shift=24)  # exponents, halved
      >>> jnp.flatnonzero(counts), counts[63:65]
      (Array([63, 64], dtype=int32), Array([2, 2], dtype=uint32))
    """
    if not (jnp.issubdtype(x.dtype, jnp.floating) or x.dtype in (jnp.uint32, jnp.uint64)):
        raise ShapeError(f"radix_count: {x.dtype} has no magnitudes to count; use floats, uint32 or uint64")
    bits = 8 * word(x.dtype).itemsize
    if shift not in range(0, bits, DIGIT):
        raise ShapeError(f"radix_count: shift={shift} is no digit of {bits} bits; use one of 0, 8, .. {bits - DIGIT}")
    over, stack = jnp.asarray(prefix, word(x.dtype)), x.shape[:-1] if rows else ()
    if over.shape not in ((), stack) or (rows and x.ndim == 0):
        raise ShapeError(f"radix_count: prefix has shape {over.shape}; wanted one number, or {stack} for x {x.shape}")
    static = {"shift": shift, "rows": rows}
    args = (matrix(x) if rows else x, jnp.broadcast_to(over, stack).reshape(-1))
    return _run(*args, choice=choose("radix_count", implementation, *args, **static), **static).reshape(*stack, BINS)


@partial(jax.jit, static_argnames=("choice", "shift", "rows"))
def _run(x: Array, prefix: Array, choice: Choice, **static: int) -> Array:
    return choice.function("radix_count", **static)(x, prefix)


def fast(x: Array) -> Callable[[int, Array], Array] | None:
    """(shift, prefix) -> counts, where a kernel makes them; None where only the reference would."""
    whole = jnp.zeros((1,), word(x.dtype))
    if choose("radix_count", None, x, whole, shift=0, rows=False).name == "ref":
        return None
    return lambda shift, prefix: radix_count(x, prefix, shift=shift)
