"""A program a tile of gains; the permutation is in the addresses that it reads."""

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

DEPTH, TALL, WIDE = 32, 64, 64
THRICE = lax.DotAlgorithmPreset.TF32_TF32_F32_X3  # float32 on tensor cores, by three products of its parts


def refuses(a: Array, b: Array, permutation: Array) -> str:
    """Why this kernel can't take the arguments; "" if it can."""
    return float_reason(a, b)


def permute_gather(a: Array, b: Array, permutation: Array, *, interpret: bool) -> Array:
    """As `ref.permute_gather`."""
    n, m = a.shape[1], b.shape[1]
    full = lax.Precision.HIGHEST if interpret else THRICE
    return pl.pallas_call(
        partial(_body, exact=full if a.dtype == jnp.float32 else lax.Precision.DEFAULT),
        grid=(pl.cdiv(n, TALL), pl.cdiv(m, WIDE)),
        out_shape=out((n, m), jnp.float32, a),
        compiler_params=pltriton.CompilerParams(num_warps=4, num_stages=3),
        interpret=interpret,
        name="permute_gather",
    )(permutation, a, b)


def _body(order: Any, a: Any, b: Any, gain: Any, *, exact: Any) -> None:
    (rows, n), m = a.shape, b.shape[1]
    mine, yours = pl.program_id(0) * TALL, pl.program_id(1) * WIDE
    of_a = mine + lax.iota(jnp.int32, TALL)
    of_b = yours + lax.iota(jnp.int32, WIDE)

    def step(k: Any, sums: Array) -> Array:
        first = k * DEPTH
        inside = first + lax.iota(jnp.int32, DEPTH) < rows
        which = pltriton.load(order.at[pl.ds(first, DEPTH)], mask=inside, other=0)
        left = pltriton.load(
            a.at[pl.ds(first, DEPTH), pl.ds(mine, TALL)], mask=inside[:, None] & (of_a < n)[None, :], other=0
        )
        mask = inside[:, None] & (of_b < m)[None, :]
        right = pltriton.load(
            b.at[jnp.broadcast_to(which[:, None], mask.shape), jnp.broadcast_to(of_b[None, :], mask.shape)],
            mask=mask,
            other=0,
        )
        return sums + jnp.dot(left.T, right, precision=exact, preferred_element_type=jnp.float32)

    sums = lax.fori_loop(0, pl.cdiv(rows, DEPTH), step, jnp.zeros((TALL, WIDE), jnp.float32))
    place = gain.at[pl.ds(mine, TALL), pl.ds(yours, WIDE)]
    pltriton.store(place, sums, mask=(of_a < n)[:, None] & (of_b < m)[None, :])
