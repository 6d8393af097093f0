"""Blocks of rows; the first kernel carries maximum and sum along them in VMEM, the second has nothing to carry."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from wspace.core.typing import Array
from wspace_kernels.blocks import SUBLANES, float_reason
from wspace_kernels.dispatch import out
from wspace_kernels.two_pass_softmax.ref import LOWEST

WIDE = 4096  # columns of a block


def refuses(x: Array) -> str:
    """Why this kernel can't take the arguments; "" if it can."""
    if x.shape[1] <= WIDE:
        return f"is for rows longer than a block of {WIDE}, got {x.shape[1]}"
    return "can't take float16" if x.dtype == jnp.float16 else float_reason(x)


def two_pass_softmax(x: Array, *, interpret: bool) -> Array:
    """As `ref.two_pass_softmax`."""
    rows, columns = x.shape
    tall = min(rows, SUBLANES)
    grid = pl.cdiv(rows, tall), pl.cdiv(columns, WIDE)
    block, pair = pl.BlockSpec((tall, WIDE), lambda i, j: (i, j)), pl.BlockSpec((tall, 1), lambda i, j: (i, 0))
    statistics = pl.pallas_call(
        partial(_fold, columns=columns),
        grid=grid,
        in_specs=[block],
        out_specs=[pair, pair],
        out_shape=[out((rows, 1), jnp.float32, x)] * 2,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        interpret=interpret,
        name="softmax_fold",
    )(x)
    return pl.pallas_call(
        _write,
        grid=grid,
        in_specs=[block, pair, pair],
        out_specs=block,
        out_shape=out(x.shape, x.dtype, x),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
        interpret=interpret,
        name="softmax_write",
    )(x, *statistics)


def _fold(x: Any, most: Any, total: Any, *, columns: int) -> None:
    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        most[...] = jnp.full_like(most, LOWEST)
        total[...] = jnp.zeros_like(total)

    place = pl.program_id(1) * WIDE + lax.broadcasted_iota(jnp.int32, x.shape, 1)
    here = jnp.where(place < columns, x[...].astype(jnp.float32), -jnp.inf)
    top = jnp.maximum(most[...], jnp.max(here, axis=1, keepdims=True))
    total[...] = total[...] * jnp.exp(most[...] - top) + jnp.sum(jnp.exp(here - top), axis=1, keepdims=True)
    most[...] = top


def _write(x: Any, most: Any, total: Any, y: Any) -> None:
    y[...] = (jnp.exp(x[...].astype(jnp.float32) - most[...]) / total[...]).astype(y.dtype)
