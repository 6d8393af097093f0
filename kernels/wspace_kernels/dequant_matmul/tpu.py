"""Tiles of outputs; along the inputs weights are dequantized in VMEM, a block at a time."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from wspace.core.typing import Array
from wspace_kernels.blocks import LANES, float_reason
from wspace_kernels.dequant_matmul.codes import Levels, halves, values
from wspace_kernels.dequant_matmul.ref import precision
from wspace_kernels.dispatch import out

MOST = 512  # rows of codes in a block


def _depth(rows: int, group: int) -> int:
    """Rows of codes in a block: the most that rows and group agree with, in whole lanes; 0 if there is none."""
    fitting = [d for d in range(LANES, MOST + 1, LANES) if rows % d == 0 and (group % d == 0 or d % group == 0)]
    return max(fitting, default=0)


def refuses(x: Array, codes: Array, scale: Array, zero: Array | None, *, levels: Levels, packed: bool) -> str:
    """Why this kernel can't take the arguments; "" if it can."""
    group = x.shape[1] // scale.shape[0]
    if codes.dtype not in (jnp.int8, jnp.uint8):
        return f"reads codes of bytes and can't take {codes.dtype}"
    if not _depth(codes.shape[0], group) or group % 8:
        return (
            f"needs inputs and groups in blocks of {LANES} rows of codes, got {codes.shape[0]} rows and group {group}"
        )
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
    """As `ref.dequant_matmul`. A packed block needs x and the scales at two places: they go in twice."""
    (tokens, inputs), (rows, outputs) = x.shape, codes.shape
    group = inputs // scale.shape[0]
    depth = _depth(rows, group)
    here, wide = min(tokens, 256), min(outputs, 256)
    scales = [s.astype(jnp.float32)[:, None] for s in (scale, *(() if zero is None else (zero,)))]
    of_x, of_scales, given = [], [], []
    for first in (0, rows)[: 1 + packed]:
        of_x.append(pl.BlockSpec((here, depth), lambda i, j, k, first=first: (i, first // depth + k)))
        at = partial(_scales_at, first=first, depth=depth, group=group)
        for _ in scales:
            of_scales.append(pl.BlockSpec((max(depth // group, 1), 1, wide), at))
        given += scales
    body = partial(_body, levels=levels, packed=packed, with_zero=zero is not None)
    return pl.pallas_call(
        body,
        grid=(pl.cdiv(tokens, here), pl.cdiv(outputs, wide), rows // depth),
        in_specs=[pl.BlockSpec((depth, wide), lambda i, j, k: (k, j)), *of_x, *of_scales],
        out_specs=pl.BlockSpec((here, wide), lambda i, j, k: (i, j)),
        out_shape=out((tokens, outputs), x.dtype, x),
        scratch_shapes=[pltpu.VMEM((here, wide), jnp.float32)],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
        interpret=interpret,
        name="dequant_matmul",
    )(codes, *(x for _ in of_x), *given)


def _scales_at(i: Any, j: Any, k: Any, *, first: int, depth: int, group: int) -> tuple[Any, ...]:
    """The block of scales of rows of weights from `first + k depth` on."""
    step = max(depth, group)
    return (first + k * depth) // step, 0, j


def _body(codes: Any, *refs: Any, levels: Levels, packed: bool, with_zero: bool) -> None:
    """refs: x, once or twice; scale and zero, once or twice; the result; the sums."""
    *given, result, sums = refs
    sides, each = 1 + packed, 1 + with_zero
    xs, scales = given[:sides], given[sides:]

    @pl.when(pl.program_id(2) == 0)
    def _() -> None:
        sums[...] = jnp.zeros_like(sums)

    parts = halves(codes[...], levels is None) if packed else (codes[...].astype(jnp.int32),)
    for side, part in enumerate(parts):
        scale, *zero = scales[side * each : (side + 1) * each]
        w = values(part, levels).reshape(scale.shape[0], -1, part.shape[1])
        if zero:
            w = w - zero[0][...]
        w = (w * scale[...]).reshape(part.shape)
        x = xs[side][...]
        sums[...] += jnp.dot(x, w.astype(x.dtype), preferred_element_type=jnp.float32, precision=precision(x))

    @pl.when(pl.program_id(2) == pl.num_programs(2) - 1)
    def _() -> None:
        result[...] = sums[...].astype(result.dtype)
