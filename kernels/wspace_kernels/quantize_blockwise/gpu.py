"""A program a few blocks, whose numbers stay in registers."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pltriton

from wspace.core.typing import Array
from wspace_kernels.blocks import FLAT, float_reason
from wspace_kernels.dispatch import out
from wspace_kernels.quantize_blockwise import ref

LEAST, MOST = 16, 4096  # entries of a block


def refuses(x: Array, *rest: Array) -> str:
    """Why this kernel can't take the arguments, x `[n, block]` among them; "" if it can."""
    block = x.shape[1]
    if block & (block - 1) or not LEAST <= block <= MOST:
        return f"takes blocks of a power of two, {LEAST} to {MOST} entries, got {block}"
    return float_reason(x, *(r for r in rest if r.dtype != jnp.uint8))


def quantize(x: Array, *, signed: bool, interpret: bool) -> tuple[Array, Array]:
    """As `ref.quantize`."""
    n, block = x.shape
    rows = max(FLAT // block, 1)
    made: tuple[Array, Array] = pl.pallas_call(
        partial(_quantize, rows=rows, signed=signed),
        grid=(pl.cdiv(n, rows),),
        out_shape=[out((n, block), jnp.uint8, x), out((n, 1), jnp.float32, x)],
        compiler_params=pltriton.CompilerParams(num_warps=4, num_stages=1),
        interpret=interpret,
        name="quantize_blockwise",
    )(x)
    return made


def _quantize(x: Any, codes: Any, most: Any, *, rows: int, signed: bool) -> None:
    _store((codes, most), ref.quantize(_load(x, rows), signed=signed), rows)


def adam(
    numbers: Array,
    param: Array,
    grad: Array,
    first: Array,
    first_most: Array,
    second: Array,
    second_most: Array,
    *,
    interpret: bool,
) -> tuple[Array, ...]:
    """As `ref.adam`, in place."""
    n, block = param.shape
    rows = max(FLAT // block, 1)
    done: tuple[Array, ...] = pl.pallas_call(
        partial(_adam, rows=rows),
        grid=(pl.cdiv(n, rows),),
        out_shape=[out(x.shape, x.dtype, param) for x in (param, first, first_most, second, second_most)],
        input_output_aliases={1: 0, 3: 1, 4: 2, 5: 3, 6: 4},
        compiler_params=pltriton.CompilerParams(num_warps=4, num_stages=1),
        interpret=interpret,
        name="adam_8bit",
    )(numbers, param, grad, first, first_most, second, second_most)
    return done


def _adam(numbers: Any, *refs: Any, rows: int) -> None:
    given, made = refs[:6], refs[6:]
    _store(made, ref.adam(numbers, *(_load(x, rows) for x in given)), rows)


def _place(x: Any, rows: int) -> tuple[Any, Array]:
    """This program's blocks, and which of them there are."""
    start = pl.program_id(0) * rows
    there = (start + lax.iota(jnp.int32, rows))[:, None] < x.shape[0]
    return x.at[pl.ds(start, rows), :], jnp.broadcast_to(there, (rows, x.shape[1]))


def _load(x: Any, rows: int) -> Array:
    place, there = _place(x, rows)
    return pltriton.load(place, mask=there, other=0)


def _store(refs: Any, made: Any, rows: int) -> None:
    for x, value in zip(refs, made, strict=True):
        place, there = _place(x, rows)
        pltriton.store(place, value, mask=there)
