"""Each program takes the same stretch of all leaves; what lies beyond the end is masked."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pltriton

from wspace.core.typing import Array
from wspace_kernels.blocks import FLAT, float_reason
from wspace_kernels.dispatch import out
from wspace_kernels.merge_many.draws import COUNTABLE, draws, known
from wspace_kernels.merge_many.ref import combine

MOST = 16  # leaves at once


def refuses(leaves: tuple[Array, ...], base: Array | None, numbers: Array, keys: Array | None, **static: bool) -> str:
    """Why this kernel can't take the arguments; "" if it can."""
    if len(leaves) > MOST:
        return f"merges at most {MOST} leaves, got {len(leaves)}"
    if keys is not None and not known(keys):
        return "draws by partitionable threefry2x32 alone"
    if leaves[0].size > COUNTABLE:
        return f"takes at most {COUNTABLE} entries, got {leaves[0].size}"
    return float_reason(*leaves, *(() if base is None else (base,)))


def merge_many(
    leaves: tuple[Array, ...],
    base: Array | None,
    numbers: Array,
    keys: Array | None,
    *,
    interpret: bool,
    **static: bool,
) -> Array:
    """As `ref.merge_many`."""
    arrays = [x.reshape(-1) for x in (*leaves, *(() if base is None else (base,)))]
    words = () if keys is None else (jax.random.key_data(keys),)
    body = partial(
        _body, n=len(leaves), with_base=base is not None, with_draws=bool(words), size=arrays[0].size, static=static
    )
    merged = pl.pallas_call(
        body,
        grid=(pl.cdiv(arrays[0].size, FLAT),),
        out_shape=out(arrays[0].shape, leaves[0].dtype, leaves[0]),
        compiler_params=pltriton.CompilerParams(num_warps=4, num_stages=1),
        interpret=interpret,
        name="merge_many",
    )(numbers, *words, *arrays)
    return merged.reshape(leaves[0].shape)


def _body(numbers: Any, *refs: Any, n: int, with_base: bool, with_draws: bool, size: int, static: Any) -> None:
    """refs: words if there are draws, the leaves, the base if there is one, the result."""
    words, refs = (refs[0], refs[1:]) if with_draws else (None, refs)
    *stretches, result = refs
    at = pl.ds(pl.program_id(0) * FLAT, FLAT)
    position = pl.program_id(0) * FLAT + lax.iota(jnp.int32, FLAT)
    inside = position < size
    given = [pltriton.load(x.at[at], mask=inside, other=0).astype(jnp.float32) for x in stretches]
    drawn = None if words is None else [draws(words[k, 0], words[k, 1], position) for k in range(n)]
    merged = combine(given[:n], given[n] if with_base else None, numbers, drawn, **static)
    pltriton.store(result.at[at], merged.astype(result.dtype), mask=inside)
