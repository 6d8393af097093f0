"""Blocks of all leaves in VMEM at once; numbers and keys in SMEM."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from wspace.core.typing import Array
from wspace_kernels.blocks import float_reason, matrix, tile
from wspace_kernels.dispatch import out
from wspace_kernels.merge_many.draws import COUNTABLE, draws, known
from wspace_kernels.merge_many.ref import combine

MOST = 16  # leaves at once


def refuses(leaves: tuple[Array, ...], base: Array | None, numbers: Array, keys: Array | None, **static: bool) -> str:
    """Why this kernel can't take the arguments; "" if it can."""
    if len(leaves) > MOST:
        return f"merges at most {MOST} leaves, got {len(leaves)}"
    if leaves[0].ndim == 0:
        return "takes no scalars"
    if keys is not None and not known(keys):
        return "draws by partitionable threefry2x32 alone"
    if keys is not None and leaves[0].size > COUNTABLE:
        return f"draws for at most {COUNTABLE} entries, got {leaves[0].size}"
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
    arrays = [matrix(x) for x in (*leaves, *(() if base is None else (base,)))]
    rows, columns = arrays[0].shape
    block = tile((rows, columns), len(arrays) + 1)
    words = () if keys is None else (jax.random.key_data(keys),)
    body = partial(
        _body, n=len(leaves), with_base=base is not None, with_draws=bool(words), columns=columns, static=static
    )
    whole = pl.BlockSpec(memory_space=pltpu.SMEM)
    part = pl.BlockSpec(block, lambda i, j: (i, j))
    merged = pl.pallas_call(
        body,
        grid=(pl.cdiv(rows, block[0]), pl.cdiv(columns, block[1])),
        in_specs=[whole, *(whole for _ in words), *(part for _ in arrays)],
        out_specs=part,
        out_shape=out(arrays[0].shape, leaves[0].dtype, leaves[0]),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
        interpret=interpret,
        name="merge_many",
    )(numbers, *words, *arrays)
    return merged.reshape(leaves[0].shape)


def _body(numbers: Any, *refs: Any, n: int, with_base: bool, with_draws: bool, columns: int, static: Any) -> None:
    """refs: words if there are draws, the leaves, the base if there is one, the result."""
    words, refs = (refs[0], refs[1:]) if with_draws else (None, refs)
    *blocks, result = refs
    given = [x[...].astype(jnp.float32) for x in blocks]
    drawn = None
    if words is not None:
        height, width = result.shape
        row = pl.program_id(0) * height + lax.broadcasted_iota(jnp.int32, (height, width), 0)
        column = pl.program_id(1) * width + lax.broadcasted_iota(jnp.int32, (height, width), 1)
        drawn = [draws(words[k, 0], words[k, 1], row * columns + column) for k in range(n)]
    merged = combine(given[:n], given[n] if with_base else None, numbers, drawn, **static)
    result[...] = merged.astype(result.dtype)
