"""Each program counts a stretch of a row; the digits' halves meet in a product on tensor cores."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pltriton

from wspace.core.typing import Array
from wspace_kernels.blocks import float_reason, matrix
from wspace_kernels.dispatch import out
from wspace_kernels.radix_count.ref import BINS, DIGIT, HALF, digits, is_half, signed

STEP, STEPS = 512, 32  # entries at once, and how often: far below 2^24, up to which float32 counts
COUNTABLE = 2**31 - 1


def refuses(x: Array, prefix: Array, *, shift: int, rows: bool) -> str:
    """Why this kernel can't take the arguments; "" if it can."""
    if x.size > COUNTABLE:
        return f"takes at most {COUNTABLE} entries, got {x.size}"
    if x.dtype == jnp.uint32:
        return "" if x.size else "has nothing to do for an empty array"
    return float_reason(x)


def radix_count(x: Array, prefix: Array, *, shift: int, rows: bool, interpret: bool) -> Array:
    """As `ref.radix_count`."""
    x = signed(matrix(x) if rows else x.reshape(1, -1))
    parts = pl.cdiv(x.shape[1], STEP * STEPS)
    counts = pl.pallas_call(
        partial(_body, shift=shift, steps=min(STEPS, pl.cdiv(x.shape[1], STEP))),
        grid=(x.shape[0], parts),
        out_specs=pl.BlockSpec((1, 1, HALF, HALF), lambda i, j: (i, j, 0, 0)),
        out_shape=out((x.shape[0], parts, HALF, HALF), jnp.int32, x),
        compiler_params=pltriton.CompilerParams(num_warps=4, num_stages=2),
        interpret=interpret,
        name="radix_count",
    )(signed(prefix), x)
    found = lax.bitcast_convert_type(counts, jnp.uint32).reshape(x.shape[0], parts, BINS)
    return jnp.sum(found, axis=1, dtype=jnp.uint32)


def _body(prefix: Any, x: Any, counts: Any, *, shift: int, steps: int) -> None:
    row, first = pl.program_id(0), pl.program_id(1) * (STEP * STEPS)
    over = prefix[row]

    def step(k: Any, sums: Array) -> Array:
        start = first + k * STEP
        inside = start + lax.iota(jnp.int32, STEP) < x.shape[1]
        found = digits(pltriton.load(x.at[row, pl.ds(start, STEP)], mask=inside, other=0), over, inside, shift)
        upper = is_half(found >> (DIGIT // 2), 0)
        lower = is_half(found & (HALF - 1), 1)
        return sums + jnp.dot(upper, lower, preferred_element_type=jnp.float32)

    sums = lax.fori_loop(0, steps, step, jnp.zeros((HALF, HALF), jnp.float32))
    counts[0, 0] = sums.astype(jnp.int32)
