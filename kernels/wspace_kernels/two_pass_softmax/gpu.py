"""Stretches of rows, each of its own: what a program finds is folded with what the others of its row find."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pltriton

from wspace.core.typing import Array
from wspace_kernels.blocks import float_reason
from wspace_kernels.dispatch import out
from wspace_kernels.two_pass_softmax.ref import LOWEST, joined

WIDE = 4096  # entries of a program: 32 a thread of 4 warps


def refuses(x: Array) -> str:
    """Why this kernel can't take the arguments; "" if it can."""
    if x.shape[1] <= WIDE:
        return f"is for rows longer than a block of {WIDE}, got {x.shape[1]}"
    return float_reason(x)


def two_pass_softmax(x: Array, *, interpret: bool) -> Array:
    """As `ref.two_pass_softmax`."""
    rows, columns = x.shape
    grid = rows, pl.cdiv(columns, WIDE)
    single = pl.BlockSpec((1, 1), lambda i, j: (i, j))
    how: dict[str, Any] = {
        "compiler_params": pltriton.CompilerParams(num_warps=4, num_stages=1),
        "interpret": interpret,
    }
    pairs = pl.pallas_call(
        _fold, grid=grid, out_specs=[single] * 2, out_shape=[out(grid, jnp.float32, x)] * 2, name="softmax_fold", **how
    )(x)
    return pl.pallas_call(_write, grid=grid, out_shape=out(x.shape, x.dtype, x), name="softmax_write", **how)(
        x, *joined(pairs[0], pairs[1], axis=1)
    )


def _stretch(x: Any) -> tuple[Any, Array, Array]:
    """Where a program's entries are, the entries in float32, and which are none."""
    row, first = pl.program_id(0), pl.program_id(1) * WIDE
    inside = first + lax.iota(jnp.int32, WIDE) < x.shape[1]
    at = (row, pl.ds(first, WIDE))
    here = pltriton.load(x.at[at], mask=inside, other=0).astype(jnp.float32)
    return at, jnp.where(inside, here, -jnp.inf), inside


def _fold(x: Any, most: Any, total: Any) -> None:
    _, here, _ = _stretch(x)
    top = jnp.maximum(jnp.max(here), LOWEST)
    most[0, 0] = top
    total[0, 0] = jnp.sum(jnp.exp(here - top))


def _write(x: Any, most: Any, total: Any, y: Any) -> None:
    at, here, inside = _stretch(x)
    row = pl.program_id(0)
    made = jnp.exp(here - most[row, 0]) / total[row, 0]
    pltriton.store(y.at[at], made.astype(y.dtype), mask=inside)
