"""A program a tile of outputs; it walks down the inputs and dequantizes in registers what tensor cores multiply."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pltriton

from wspace.core.typing import Array
from wspace_kernels.blocks import float_reason
from wspace_kernels.dequant_matmul.codes import Levels, halves, values
from wspace_kernels.dequant_matmul.ref import precision
from wspace_kernels.dispatch import out

LEAST, MOST = 16, 64  # rows of codes at once: what a tensor core needs, and what fits


def _depth(rows: int, group: int) -> int:
    """The largest power of two, up to MOST, that divides both."""
    shared = math.gcd(rows, group)
    return min(shared & -shared, MOST)


def refuses(x: Array, codes: Array, scale: Array, zero: Array | None, *, levels: Levels, packed: bool) -> str:
    """Why this kernel can't take the arguments; "" if it can."""
    group = x.shape[1] // scale.shape[0]
    if codes.dtype not in (jnp.int8, jnp.uint8):
        return f"reads codes of bytes and can't take {codes.dtype}"
    if _depth(codes.shape[0], group) < LEAST:
        return f"needs a multiple of {LEAST} rows of codes and inputs a group, got {codes.shape[0]} and {group}"
    return float_reason(x, scale)


def dequant_matmul(
    x: Array,
    codes: Array,
    scale: Array,
    zero: Array | None,
    *,
    levels: Levels,
    packed: bool,
    interpret: bool,
) -> Array:
    """As `ref.dequant_matmul`."""
    (tokens, inputs), (rows, outputs) = x.shape, codes.shape
    group = inputs // scale.shape[0]
    here, wide = (16, 32) if tokens <= 16 else (64, 64)  # few tokens: more programs, to read at full bandwidth
    body = partial(_body, here=here, wide=wide, depth=_depth(rows, group), group=group, levels=levels, packed=packed)
    return pl.pallas_call(
        body,
        grid=(pl.cdiv(tokens, here), pl.cdiv(outputs, wide)),
        out_shape=out((tokens, outputs), x.dtype, x),
        compiler_params=pltriton.CompilerParams(num_warps=4, num_stages=3),
        interpret=interpret,
        name="dequant_matmul",
    )(x, codes, scale.astype(jnp.float32), *(() if zero is None else (zero.astype(jnp.float32),)))


def _body(
    x: Any,
    codes: Any,
    scale: Any,
    *refs: Any,
    here: int,
    wide: int,
    depth: int,
    group: int,
    levels: Levels,
    packed: bool,
) -> None:
    """refs: zero, if there is one, and the result."""
    *zero, result = refs
    (tokens, _), (rows, outputs) = x.shape, codes.shape
    row, column = pl.program_id(0) * here, pl.program_id(1) * wide
    is_token = (row + lax.iota(jnp.int32, here))[:, None] < tokens
    is_output = (column + lax.iota(jnp.int32, wide))[None, :] < outputs
    across = pl.ds(column, wide)

    def dequantized(part: Array, start: Any) -> Array:
        g = start // group
        w = values(part, levels)
        if zero:
            w = w - pltriton.load(zero[0].at[g, across], mask=is_output[0], other=0)[None]
        return w * pltriton.load(scale.at[g, across], mask=is_output[0], other=0)[None]

    def step(k: Any, sums: Array) -> Array:
        mask = jnp.broadcast_to(is_output, (depth, wide))
        block = pltriton.load(codes.at[pl.ds(k * depth, depth), across], mask=mask, other=0)
        parts = halves(block, levels is None) if packed else (block.astype(jnp.int32),)
        for side, part in enumerate(parts):
            start = side * rows + k * depth
            inside = jnp.broadcast_to(is_token, (here, depth))
            acts = pltriton.load(x.at[pl.ds(row, here), pl.ds(start, depth)], mask=inside, other=0)
            w = dequantized(part, start).astype(acts.dtype)
            sums = sums + jnp.dot(acts, w, preferred_element_type=jnp.float32, precision=precision(acts))
        return sums

    sums = lax.fori_loop(0, rows // depth, step, jnp.zeros((here, wide), jnp.float32))
    place = result.at[pl.ds(row, here), across]
    pltriton.store(place, sums.astype(result.dtype), mask=is_token & is_output)
