"""Head after head, chunk after chunk; the state stays in VMEM."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from wspace.core.typing import Array
from wspace_kernels.blocks import float_reason
from wspace_kernels.delta_rule.ref import FULL, inverse, read_and_learn
from wspace_kernels.dispatch import out

MOST = 512  # of d_k and d_v: states of 1 MB


def refuses(q: Array, k: Array, v: Array, beta: Array, log_gate: Array | None, start: Array, *, chunk: int) -> str:
    """Why this kernel can't take the arguments; "" if it can."""
    if chunk not in (16, 32, 64, 128) or max(start.shape[1:]) > MOST:
        return f"needs chunks of 16 to 128 and heads of at most {MOST}, got {chunk} and {start.shape[1:]}"
    given = (q, k, v, beta, *(() if log_gate is None else (log_gate,)))
    if any(x.dtype == jnp.float16 for x in given):
        return "can't take float16"
    return float_reason(*given, start)


def delta_rule(
    q: Array, k: Array, v: Array, beta: Array, log_gate: Array | None, start: Array, *, chunk: int, interpret: bool
) -> tuple[Array, Array]:
    """As `ref.delta_rule`."""
    (heads, length, keys), values = q.shape, v.shape[2]
    numbers = [x.astype(jnp.float32)[..., None] for x in (beta, log_gate) if x is not None]

    def along(width: int) -> pl.BlockSpec:
        return pl.BlockSpec((1, chunk, width), lambda h, c: (h, c, 0))

    state = pl.BlockSpec((1, keys, values), lambda h, c: (h, 0, 0))
    return pl.pallas_call(
        _body,
        grid=(heads, length // chunk),
        in_specs=[along(keys), along(keys), along(values), state, *(along(1) for _ in numbers)],
        out_specs=[along(values), state],
        out_shape=[out(v.shape, v.dtype, v), out(start.shape, jnp.float32, v)],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        interpret=interpret,
        name="delta_rule",
    )(q, k, v, start, *numbers)


def _body(q: Any, k: Any, v: Any, start: Any, beta: Any, *refs: Any) -> None:
    """refs: the logarithm of the gate, if there is one; what is read; the state."""
    *log_gate, o, state = refs

    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        state[...] = start[...]

    query, key, value = (x[0].astype(jnp.float32) for x in (q, k, v))
    gate = log_gate[0][0] if log_gate else None
    made, state[0] = read_and_learn(query, key, value, beta[0], gate, state[0], FULL, inverse)
    o[0] = made.astype(o.dtype)
