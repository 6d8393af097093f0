"""Some blocks at a time in VMEM, a block a row."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from wspace.core.typing import Array
from wspace_kernels.blocks import LANES, float_reason, tile
from wspace_kernels.dispatch import out
from wspace_kernels.quantize_blockwise import ref

MOST = 4096  # entries of a block


def refuses(x: Array, *rest: Array) -> str:
    """Why this kernel can't take the arguments, x `[n, block]` among them; "" if it can."""
    block = x.shape[1]
    if block % LANES or block > MOST:
        return f"takes blocks of a multiple of {LANES} up to {MOST} entries, got {block}"
    return float_reason(x, *(r for r in rest if r.dtype != jnp.uint8))


def quantize(x: Array, *, signed: bool, interpret: bool) -> tuple[Array, Array]:
    """As `ref.quantize`."""
    (n, block) = x.shape
    rows = tile((n, block), 4)[0]
    part, one = (pl.BlockSpec((rows, width), lambda i: (i, 0)) for width in (block, 1))
    made: tuple[Array, Array] = pl.pallas_call(
        partial(_quantize, signed=signed),
        grid=(pl.cdiv(n, rows),),
        in_specs=[part],
        out_specs=[part, one],
        out_shape=[out((n, block), jnp.uint8, x), out((n, 1), jnp.float32, x)],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",)),
        interpret=interpret,
        name="quantize_blockwise",
    )(x)
    return made


def _quantize(x: Any, codes: Any, most: Any, *, signed: bool) -> None:
    codes[...], most[...] = ref.quantize(x[...], signed=signed)


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
    given = (param, grad, first, first_most, second, second_most)
    made = [param, first, first_most, second, second_most]
    n, block = param.shape
    rows = tile((n, block), 12)[0]
    specs = [pl.BlockSpec((rows, x.shape[1]), lambda i: (i, 0)) for x in given]
    done: tuple[Array, ...] = pl.pallas_call(
        _adam,
        grid=(pl.cdiv(n, rows),),
        in_specs=[pl.BlockSpec(memory_space=pltpu.SMEM), *specs],
        out_specs=[specs[0], *specs[2:]],
        out_shape=[out(x.shape, x.dtype, param) for x in made],
        input_output_aliases={1: 0, 3: 1, 4: 2, 5: 3, 6: 4},
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",)),
        interpret=interpret,
        name="adam_8bit",
    )(numbers, *given)
    return done


def _adam(numbers: Any, *refs: Any) -> None:
    given, made = refs[:6], refs[6:]
    for place, value in zip(made, ref.adam(numbers, *(x[...] for x in given)), strict=True):
        place[...] = value
