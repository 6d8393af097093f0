"""A program a head and a stretch of its values: columns of the state don't meet. The state stays in registers."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pltriton

from wspace.core.typing import Array
from wspace_kernels.blocks import float_reason
from wspace_kernels.delta_rule.ref import FULL, inverse, read_and_learn
from wspace_kernels.dispatch import out

LEAST, MOST, STRETCH = 16, 128, 32  # what a tensor core needs; what fits; columns of a program
THRICE = lax.DotAlgorithmPreset.TF32_TF32_F32_X3  # float32 on tensor cores, by three products of its parts


def refuses(q: Array, k: Array, v: Array, beta: Array, log_gate: Array | None, start: Array, *, chunk: int) -> str:
    """Why this kernel can't take the arguments; "" if it can."""
    keys, values = start.shape[1:]
    if chunk not in (16, 32, 64) or keys & (keys - 1) or not LEAST <= keys <= MOST or values % LEAST:
        return (
            f"needs chunks of 16 to 64, keys of a power of two from {LEAST} to {MOST} and values of a multiple of "
            f"{LEAST}, got {chunk}, {keys} and {values}"
        )
    return float_reason(q, k, v, beta, *(() if log_gate is None else (log_gate,)), start)


def delta_rule(
    q: Array, k: Array, v: Array, beta: Array, log_gate: Array | None, start: Array, *, chunk: int, interpret: bool
) -> tuple[Array, Array]:
    """As `ref.delta_rule`."""
    heads, keys, values = start.shape
    numbers = [x.astype(jnp.float32) for x in (beta, log_gate) if x is not None]
    stretch = STRETCH if values % STRETCH == 0 else LEAST
    return pl.pallas_call(
        partial(_body, chunk=chunk, stretch=stretch, exact=FULL if interpret else THRICE),
        grid=(heads, values // stretch),
        out_shape=[out(v.shape, v.dtype, v), out((heads, keys, values), jnp.float32, v)],
        compiler_params=pltriton.CompilerParams(num_warps=4, num_stages=1),
        interpret=interpret,
        name="delta_rule",
    )(q, k, v, start, *numbers)


def _body(q: Any, k: Any, v: Any, start: Any, *refs: Any, chunk: int, stretch: int, exact: Any) -> None:
    """refs: beta; the logarithm of the gate, if there is one; what is read; the state."""
    *numbers, o, last = refs
    head, columns = pl.program_id(0), pl.ds(pl.program_id(1) * stretch, stretch)

    def step(c: Any, state: Array) -> Array:
        tokens = pl.ds(c * chunk, chunk)
        query, key = (x[head, tokens, :].astype(jnp.float32) for x in (q, k))
        value = v[head, tokens, columns].astype(jnp.float32)
        beta, *log_gate = (x[head, tokens][:, None] for x in numbers)
        gate = log_gate[0] if log_gate else None
        made, state = read_and_learn(query, key, value, beta, gate, state, exact, inverse)
        o[head, tokens, columns] = made.astype(o.dtype)
        return state

    last[head, :, columns] = lax.fori_loop(0, q.shape[1] // chunk, step, start[head, :, columns])
