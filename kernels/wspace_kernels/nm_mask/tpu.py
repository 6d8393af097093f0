"""Blocks of inputs that share bytes, side by side in VMEM; every m-th row is one place of all groups."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from wspace.core.typing import Array
from wspace_kernels.blocks import LANES, SUBLANES, float_reason
from wspace_kernels.dispatch import out
from wspace_kernels.nm_mask.ref import groups_in_a_byte, joined, keep

MOST = 2 * SUBLANES  # groups in a block, of each that a byte holds


def refuses(w: Array, score: Array | None, *, n: int, m: int) -> str:
    """Why this kernel can't take the arguments; "" if it can."""
    each = w.shape[1] // m // groups_in_a_byte(n)
    if each % SUBLANES:
        return f"needs bytes of indices in blocks of {SUBLANES} rows, got {each} rows"
    if any(x is not None and x.dtype == jnp.float16 for x in (w, score)):
        return "can't take float16"
    return float_reason(w, *(() if score is None else (score,)))


def nm_pack(w: Array, score: Array | None, *, n: int, m: int, interpret: bool) -> tuple[Array, Array]:
    """As `ref.nm_pack`."""
    stack, inputs, outputs = w.shape
    per = groups_in_a_byte(n)
    each = inputs // m // per
    tall = MOST if each % MOST == 0 else SUBLANES
    wide = min(outputs, LANES)
    given = [x.reshape(stack, per, m * each, outputs) for x in (w, *(() if score is None else (score,)))]
    values, indices = pl.pallas_call(
        partial(_body, n=n, m=m),
        grid=(stack, each // tall, pl.cdiv(outputs, wide)),
        in_specs=[pl.BlockSpec((1, per, m * tall, wide), lambda s, i, j: (s, 0, i, j)) for _ in given],
        out_specs=[
            pl.BlockSpec((1, n, per, tall, wide), lambda s, i, j: (s, 0, 0, i, j)),
            pl.BlockSpec((1, tall, wide), lambda s, i, j: (s, i, j)),
        ],
        out_shape=[out((stack, n, per, each, outputs), w.dtype, w), out((stack, each, outputs), jnp.uint8, w)],
        scratch_shapes=[pltpu.VMEM((per * m * tall, wide), jnp.float32) for _ in given],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "parallel")),
        interpret=interpret,
        name="nm_pack",
    )(*given)
    return values.reshape(stack, n, per * each, outputs), indices


def _body(*refs: Any, n: int, m: int) -> None:
    """refs: w, the score if there is one; values and indices; a float32 copy of each of the first."""
    count = (len(refs) - 2) // 2
    given, (values, indices), wide = refs[:count], refs[count : count + 2], refs[count + 2 :]
    for x, copy in zip(given, wide, strict=True):
        copy[...] = x[0].reshape(copy.shape).astype(jnp.float32)
    places, tall = [], values.shape[3]
    for k in range(values.shape[2]):
        inside, ranked = ([copy[pl.ds(k * m * tall + j, tall, m), :] for j in range(m)] for copy in (wide[0], wide[-1]))
        bits = [lax.bitcast_convert_type(x, jnp.int32) & jnp.int32(2**31 - 1) for x in ranked]
        kept, found = keep(inside, bits, n)
        for slot, value in enumerate(kept):
            values[0, slot, k] = value.astype(values.dtype)
        places.append(found)
    indices[0] = joined(places).astype(jnp.uint8)
