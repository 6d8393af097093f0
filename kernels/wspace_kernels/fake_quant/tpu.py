"""Whole groups in VMEM, of some outputs."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from wspace.core.typing import Array
from wspace_kernels.blocks import LANES, float_reason
from wspace_kernels.dispatch import out
from wspace_kernels.fake_quant.ref import rate, rounded, slopes_of, step_of
from wspace_kernels.portable import magnitude

MOST = 2048  # inputs of a group
ROWS = 512  # inputs of a block, of small groups


def refuses(w: Array, step: Array | None, *, bits: int, group: int) -> str:
    """Why this kernel can't take the arguments; "" if it can."""
    if group > MOST:
        return f"holds groups of at most {MOST} inputs, got {group}"
    return float_reason(w, *(() if step is None else (step,)))


def _blocks(w: Array, group: int) -> tuple[tuple[int, int], Any, Any]:
    """The grid, and the blocks of `[in/group, group, out]` and of `[in/group, 1, out]`."""
    groups, outputs = w.shape[0] // group, w.shape[1]
    here, wide = min(groups, max(ROWS // group, 1)), min(outputs, LANES if group > ROWS else 2 * LANES)
    grid = (pl.cdiv(groups, here), pl.cdiv(outputs, wide))
    of_w, of_step = (pl.BlockSpec((here, rows, wide), lambda i, j: (i, 0, j)) for rows in (group, 1))
    return grid, of_w, of_step


def fake_quant(w: Array, step: Array | None, *, bits: int, group: int, interpret: bool) -> Array:
    """As `ref.fake_quant`, forward."""
    grid, of_w, of_step = _blocks(w, group)
    x = w.reshape(-1, group, w.shape[1])
    made = pl.pallas_call(
        partial(_forward, bits=bits),
        grid=grid,
        in_specs=[of_w, *(() if step is None else (of_step,))],
        out_specs=of_w,
        out_shape=out(x.shape, w.dtype, w),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
        interpret=interpret,
        name="fake_quant",
    )(x, *(() if step is None else (step[:, None],)))
    return made.reshape(w.shape)


def _forward(w: Any, *refs: Any, bits: int) -> None:
    *given, result = refs
    x = w[...].astype(jnp.float32)
    s = given[0][...].astype(jnp.float32) if given else step_of(jnp.max(magnitude(x), axis=1, keepdims=True), bits)
    result[...] = rounded(x, s, bits).astype(result.dtype)


def slopes(w: Array, step: Array, slope: Array, *, bits: int, group: int, interpret: bool) -> tuple[Array, Array]:
    """The gradients of w and of step."""
    grid, of_w, of_step = _blocks(w, group)
    x, g = (a.reshape(-1, group, w.shape[1]) for a in (w, slope))
    of_x, of_s = pl.pallas_call(
        partial(_backward, bits=bits, slow=rate(bits, group)),
        grid=grid,
        in_specs=[of_w, of_step, of_w],
        out_specs=[of_w, of_step],
        out_shape=[out(x.shape, w.dtype, w), out((*step.shape[:1], 1, step.shape[1]), step.dtype, w)],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
        interpret=interpret,
        name="fake_quant_slopes",
    )(x, step[:, None], g)
    return of_x.reshape(w.shape), of_s[:, 0]


def _backward(w: Any, step: Any, slope: Any, of_w: Any, of_step: Any, *, bits: int, slow: float) -> None:
    x, s, g = (a[...].astype(jnp.float32) for a in (w, step, slope))
    mine, shared = slopes_of(x, s, g, bits)
    of_w[...] = mine.astype(of_w.dtype)
    of_step[...] = (slow * jnp.sum(shared, axis=1, keepdims=True)).astype(of_step.dtype)
