"""All inputs of the block for some outputs in registers; a program reads U a row at a time."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pltriton

from wspace.core.typing import Array
from wspace_kernels.blocks import float_reason
from wspace_kernels.dispatch import out
from wspace_kernels.gptq_block.ref import rounded

LEAST, MOST = 16, 256  # inputs of a block
ENTRIES = 4096  # weights that a program holds


def refuses(w: Array, factor: Array, scale: Array, zero: Array | None, *, bits: int) -> str:
    """Why this kernel can't take the arguments; "" if it can."""
    block = w.shape[0]
    if block & (block - 1) or not LEAST <= block <= MOST:
        return f"takes blocks of a power of two, {LEAST} to {MOST} inputs, got {block}"
    return float_reason(w, factor, scale)


def gptq_block(
    w: Array, factor: Array, scale: Array, zero: Array | None, *, bits: int, interpret: bool
) -> tuple[Array, ...]:
    """As `ref.gptq_block`."""
    block, outputs = w.shape
    wide = max(ENTRIES // block, 16)
    scales = [x.astype(jnp.float32) for x in (scale, *(() if zero is None else (zero,)))]
    made: tuple[Array, ...] = pl.pallas_call(
        partial(_body, wide=wide, group=block // scale.shape[0], bits=bits),
        grid=(pl.cdiv(outputs, wide),),
        out_shape=[out(w.shape, dtype, w) for dtype in (jnp.int8, jnp.float32, jnp.float32)],
        compiler_params=pltriton.CompilerParams(num_warps=4, num_stages=1),
        interpret=interpret,
        name="gptq_block",
    )(w, factor.astype(jnp.float32), *scales)
    return made


def _body(w: Any, factor: Any, *refs: Any, wide: int, group: int, bits: int) -> None:
    """refs: scale; zero, if there is one; codes, made, errors."""
    scale, *zero, codes, made, errors = refs
    block, outputs = w.shape
    start = pl.program_id(0) * wide
    across, there = pl.ds(start, wide), start + lax.iota(jnp.int32, wide) < outputs
    mask = jnp.broadcast_to(there[None], (block, wide))
    place = lax.iota(jnp.int32, block)

    def load(x: Any, i: Any, other: float) -> Array:
        return pltriton.load(x.at[i, across], mask=there, other=other)

    def step(i: Any, left: Array) -> Array:
        row = jnp.sum(jnp.where(place[:, None] == i, left, 0), axis=0)
        u = factor[i, :]
        s = load(scale, i // group, 1)
        code, near = rounded(row, s, load(zero[0], i // group, 0) if zero else jnp.zeros_like(s), bits)
        error = (row - near) / jnp.sum(jnp.where(place == i, u, 0))
        for x, value in ((codes, code), (made, near), (errors, error)):
            pltriton.store(x.at[i, across], value.astype(x.dtype), mask=there)
        return left - u[:, None] * error[None]

    lax.fori_loop(0, block, step, pltriton.load(w.at[:, across], mask=mask, other=0).astype(jnp.float32))
