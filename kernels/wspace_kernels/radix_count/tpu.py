"""Row after row of a block, its digits in halves; the products of these on the matrix unit are the counts."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from wspace.core.typing import Array
from wspace_kernels.blocks import SUBLANES, float_reason, matrix
from wspace_kernels.dispatch import out
from wspace_kernels.radix_count.ref import BINS, DIGIT, HALF, digits, signed

WIDE, LONG = 1024, 8192  # columns of a block, and of one that has a single row


def refuses(x: Array, prefix: Array, *, shift: int, rows: bool) -> str:
    """Why this kernel can't take the arguments; "" if it can."""
    if x.ndim == 0 or x.dtype == jnp.float16:
        return f"takes no scalars and no float16, got {x.dtype}{list(x.shape)}"
    if x.dtype == jnp.uint32:
        return "" if x.size else "has nothing to do for an empty array"
    return float_reason(x)


def radix_count(x: Array, prefix: Array, *, shift: int, rows: bool, interpret: bool) -> Array:
    """As `ref.radix_count`."""
    x = signed(matrix(x))
    height = min(x.shape[0], SUBLANES)
    width = min(x.shape[1], LONG if x.shape[0] == 1 else WIDE)
    blocks = pl.cdiv(x.shape[0], height)
    over = signed(prefix)[:, None] if rows else signed(prefix)[None]
    each = height if rows else 1
    counts = pl.pallas_call(
        partial(_body, shift=shift, rows=rows, shape=x.shape),
        grid=(blocks, pl.cdiv(x.shape[1], width)),
        in_specs=[
            pl.BlockSpec((each, 1), (lambda i, j: (i, 0)) if rows else (lambda i, j: (0, 0))),
            pl.BlockSpec((height, width), lambda i, j: (i, j)),
        ],
        out_specs=pl.BlockSpec((each, HALF, HALF), lambda i, j: (i, 0, 0)),
        out_shape=out((x.shape[0] if rows else blocks, HALF, HALF), jnp.int32, x),
        scratch_shapes=[pltpu.VMEM((height, width), jnp.int32)],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        interpret=interpret,
        name="radix_count",
    )(over, x)
    found = lax.bitcast_convert_type(counts, jnp.uint32).reshape(-1, BINS)
    return found if rows else jnp.sum(found, axis=0, keepdims=True, dtype=jnp.uint32)


def _body(prefix: Any, x: Any, counts: Any, held: Any, *, shift: int, rows: bool, shape: tuple[int, ...]) -> None:
    height, width = held.shape
    row = pl.program_id(0) * height + lax.broadcasted_iota(jnp.int32, (height, width), 0)
    column = pl.program_id(1) * width + lax.broadcasted_iota(jnp.int32, (height, width), 1)
    inside = (row < shape[0]) & (column < shape[1])
    held[...] = digits(x[...], prefix[...], inside, shift)

    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        counts[...] = jnp.zeros_like(counts)

    def step(r: Any, nothing: None) -> None:
        found = held[pl.ds(r, 1), :]
        places = lax.broadcasted_iota(jnp.int32, (HALF, width), 0)
        upper, lower = (
            jnp.where(half == places, 1.0, 0.0).astype(jnp.bfloat16)
            for half in (found >> (DIGIT // 2), found & (HALF - 1))
        )
        made = lax.dot_general(upper, lower, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)
        counts[r if rows else 0] += made.astype(jnp.int32)

    lax.fori_loop(0, height, step, None)
