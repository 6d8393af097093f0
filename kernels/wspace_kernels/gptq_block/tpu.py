"""All inputs of the block for some outputs in VMEM, where they change in place."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from wspace.core.typing import Array
from wspace_kernels.blocks import float_reason
from wspace_kernels.dispatch import out
from wspace_kernels.gptq_block.ref import rounded

MOST, WIDE = 512, 256  # inputs of a block; outputs at once


def refuses(w: Array, factor: Array, scale: Array, zero: Array | None, *, bits: int) -> str:
    """Why this kernel can't take the arguments; "" if it can."""
    if w.shape[0] > MOST:
        return f"holds at most {MOST} inputs, got {w.shape[0]}"
    return float_reason(w, factor, scale)


def gptq_block(
    w: Array, factor: Array, scale: Array, zero: Array | None, *, bits: int, interpret: bool
) -> tuple[Array, ...]:
    """As `ref.gptq_block`."""
    block, outputs = w.shape
    wide = min(outputs, WIDE)
    rows, groups = (pl.BlockSpec((n, wide), lambda j: (0, j)) for n in (block, scale.shape[0]))
    scales = [x.astype(jnp.float32) for x in (scale, *(() if zero is None else (zero,)))]
    made: tuple[Array, ...] = pl.pallas_call(
        partial(_body, group=block // scale.shape[0], bits=bits),
        grid=(pl.cdiv(outputs, wide),),
        in_specs=[rows, pl.BlockSpec((block, block), lambda j: (0, 0)), *(groups for _ in scales)],
        out_specs=[rows] * 3,
        out_shape=[out(w.shape, dtype, w) for dtype in (jnp.int32, jnp.float32, jnp.float32)],
        scratch_shapes=[pltpu.VMEM((block, wide), jnp.float32)],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",)),
        interpret=interpret,
        name="gptq_block",
    )(w, factor.astype(jnp.float32).T, *scales)
    return made[0].astype(jnp.int8), *made[1:]


def _body(w: Any, transposed: Any, *refs: Any, group: int, bits: int) -> None:
    """refs: scale; zero, if there is one; codes, made, errors; the weights as they are left."""
    scale, *zero, codes, made, errors, left = refs
    left[...] = w[...].astype(jnp.float32)
    block = left.shape[0]
    lane = lax.broadcasted_iota(jnp.int32, (block, block), 1)
    place = lax.broadcasted_iota(jnp.int32, (block, 1), 0)

    def step(i: Any, nothing: None) -> None:
        across = jnp.sum(jnp.where(lane == i, transposed[...], 0), axis=1, keepdims=True)  # row i of U, as a column
        pivot = jnp.sum(jnp.where(place == i, across, 0))
        here, shared = pl.ds(i, 1), pl.ds(i // group, 1)
        row, s = left[here, :], scale[shared, :]
        codes[here, :], made[here, :] = rounded(row, s, zero[0][shared, :] if zero else jnp.zeros_like(s), bits)
        error = (row - made[here, :]) / pivot
        errors[here, :] = error
        left[...] -= across * error

    lax.fori_loop(0, block, step, None)
