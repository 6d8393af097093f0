"""While one block of rows is multiplied, the next is brought row by row from where the permutation says."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from wspace.core.typing import Array
from wspace_kernels.blocks import LANES, float_reason
from wspace_kernels.dispatch import out
from wspace_kernels.permute_gather.ref import product

DEPTH, WIDE = 128, 512  # rows at once, and of the result


def refuses(a: Array, b: Array, permutation: Array) -> str:
    """Why this kernel can't take the arguments; "" if it can."""
    if a.dtype != jnp.float32:
        return f"fetches rows of float32 and can't take {a.dtype}"
    if a.shape[0] % DEPTH or b.shape[1] % LANES:
        return f"needs rows in blocks of {DEPTH} and {LANES} of the result, got {a.shape[0]} and {b.shape[1]}"
    return float_reason(a, b)


def permute_gather(a: Array, b: Array, permutation: Array, *, interpret: bool) -> Array:
    """As `ref.permute_gather`. All columns of the result that a row of b reaches are made at once."""
    (rows, n), m = a.shape, b.shape[1]
    tall = min(n, WIDE)
    wide = next(w for w in (WIDE, 256, LANES) if m % w == 0)
    return pl.pallas_call(
        partial(_body, steps=rows // DEPTH, wide=wide),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(m // wide, pl.cdiv(n, tall), rows // DEPTH),
            in_specs=[
                pl.BlockSpec((DEPTH, tall), lambda j, i, k, order: (k, i)),
                pl.BlockSpec(memory_space=pl.ANY),
            ],
            out_specs=pl.BlockSpec((tall, wide), lambda j, i, k, order: (i, j)),
            scratch_shapes=[pltpu.VMEM((2, DEPTH, wide), b.dtype), pltpu.SemaphoreType.DMA((2,))],
        ),
        out_shape=out((n, m), jnp.float32, a),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
        interpret=interpret,
        name="permute_gather",
    )(permutation, a, b)


def _body(order: Any, a: Any, b: Any, gain: Any, held: Any, done: Any, *, steps: int, wide: int) -> None:
    k = pl.program_id(2)
    columns = pl.ds(pl.program_id(0) * wide, wide)

    def row(block: Any, r: Any) -> Any:
        source = b.at[pl.ds(order[block * DEPTH + r], 1), columns]
        return pltpu.make_async_copy(source, held.at[block % 2, pl.ds(r, 1), :], done.at[block % 2])

    def fetch(block: Any) -> None:
        lax.fori_loop(0, DEPTH, lambda r, _: row(block, r).start(), None)

    @pl.when(k == 0)
    def _() -> None:
        gain[...] = jnp.zeros_like(gain)
        fetch(0)

    @pl.when(k + 1 < steps)
    def _() -> None:
        fetch(k + 1)

    lax.fori_loop(0, DEPTH, lambda r, _: row(k, r).wait(), None)
    gain[...] += product(a[...], held[k % 2])
