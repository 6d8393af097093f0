"""Each program takes a tile of groups; where a group's entries lie is in the addresses it reads."""

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
from wspace_kernels.nm_mask.ref import groups_in_a_byte, joined, keep

TALL, WIDE = 8, 128  # rows of bytes and outputs of a tile
COUNTABLE = 2**31 - 1


def refuses(w: Array, score: Array | None, *, n: int, m: int) -> str:
    """Why this kernel can't take the arguments; "" if it can."""
    if w.size > COUNTABLE:
        return f"takes at most {COUNTABLE} entries, got {w.size}"
    return float_reason(w, *(() if score is None else (score,)))


def nm_pack(w: Array, score: Array | None, *, n: int, m: int, interpret: bool) -> tuple[Array, Array]:
    """As `ref.nm_pack`."""
    stack, inputs, outputs = w.shape
    per = groups_in_a_byte(n)
    each = inputs // m // per
    given = [x.reshape(stack, per, each, m, outputs) for x in (w, *(() if score is None else (score,)))]
    values, indices = pl.pallas_call(
        partial(_body, n=n, m=m),
        grid=(stack, pl.cdiv(each, TALL), pl.cdiv(outputs, WIDE)),
        out_shape=[out((stack, n, per, each, outputs), w.dtype, w), out((stack, each, outputs), jnp.uint8, w)],
        compiler_params=pltriton.CompilerParams(num_warps=4, num_stages=1),
        interpret=interpret,
        name="nm_pack",
    )(*given)
    return values.reshape(stack, n, per * each, outputs), indices


def _body(*refs: Any, n: int, m: int) -> None:
    """refs: w, the score if there is one; values and indices."""
    *given, values, indices = refs
    each, outputs = indices.shape[1:]
    layer, row, column = pl.program_id(0), pl.program_id(1) * TALL, pl.program_id(2) * WIDE
    rows, columns = pl.ds(row, TALL), pl.ds(column, WIDE)
    inside = ((row + lax.iota(jnp.int32, TALL))[:, None] < each) & (
        (column + lax.iota(jnp.int32, WIDE))[None, :] < outputs
    )

    def entries(x: Any, k: int) -> list[Array]:
        return [
            pltriton.load(x.at[layer, jnp.int32(k), rows, jnp.int32(j), columns], mask=inside, other=0)
            for j in range(m)
        ]

    places = []
    for k in range(groups_in_a_byte(n)):
        mine = entries(given[0], k)
        ranked = mine if len(given) == 1 else entries(given[1], k)
        bits = [lax.bitcast_convert_type(x.astype(jnp.float32), jnp.int32) & jnp.int32(2**31 - 1) for x in ranked]
        kept, found = keep(mine, bits, n)
        for slot, value in enumerate(kept):
            pltriton.store(values.at[layer, jnp.int32(slot), jnp.int32(k), rows, columns], value, mask=inside)
        places.append(found)
    pltriton.store(indices.at[layer, rows, columns], joined(places).astype(jnp.uint8), mask=inside)
