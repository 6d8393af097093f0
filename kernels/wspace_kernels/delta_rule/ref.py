"""Chunk after chunk in jnp; what happens in a chunk is shared with the kernels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from wspace.core.typing import Array

FULL = lax.Precision.HIGHEST
Exact: TypeAlias = lax.Precision | lax.DotAlgorithmPreset
Invert: TypeAlias = Callable[[Array, Exact], Array]


def delta_rule(
    q: Array, k: Array, v: Array, beta: Array, log_gate: Array | None, start: Array, *, chunk: int
) -> tuple[Array, Array]:
    """q, k `[heads, length, d_k]`, v `[heads, length, d_v]`, beta and log_gate `[heads, length]`, start `[heads, d_k,
    d_v]`; chunk divides length."""
    wide = start.dtype

    def cut(x: Array) -> Array:
        return x.astype(wide).reshape(-1, chunk, *x.shape[1:])

    def head(q: Array, k: Array, v: Array, beta: Array, log_gate: Array | None, start: Array) -> tuple[Array, Array]:
        def step(state: Array, part: tuple[Array, ...]) -> tuple[Array, Array]:
            q, k, v, beta, *gate = part
            o, state = read_and_learn(q, k, v, beta[:, None], gate[0][:, None] if gate else None, state, FULL, solved)
            return state, o

        parts = tuple(cut(x) for x in (q, k, v, beta, log_gate) if x is not None)
        last, o = lax.scan(step, start, parts)
        return o.reshape(v.shape), last

    o, last = jax.vmap(head, in_axes=(0, 0, 0, 0, None if log_gate is None else 0, 0))(q, k, v, beta, log_gate, start)
    return o.astype(v.dtype), last


def read_and_learn(
    q: Array, k: Array, v: Array, beta: Array, log_gate: Array | None, state: Array, exact: Exact, invert: Invert
) -> tuple[Array, Array]:
    """What a chunk reads, `[chunk, d_v]`, and the state after it. beta and log_gate `[chunk, 1]`.

    exact: how products of float32 are made. invert: `inverse`, or the same with a gradient of its own.
    With gates, a_t, every pair of tokens i >= j is apart by the decay a_{j+1} .. a_i.
    """
    times = partial(product, exact)
    row, column = (lax.broadcasted_iota(jnp.int32, (q.shape[0],) * 2, axis) for axis in (0, 1))
    alike, seen = times(k, k, right=True), times(q, k, right=True)
    keys, reads, teaches = k, q, k
    if log_gate is not None:
        across = jnp.sum(jnp.where(row == column, log_gate, 0.0), axis=0, keepdims=True)
        total = jnp.sum(jnp.where(row >= column, across, 0.0), axis=1, keepdims=True)  # [chunk, 1], the logarithm
        across = jnp.sum(jnp.where(row == column, total, 0.0), axis=0, keepdims=True)
        decay = jnp.exp(jnp.where(row >= column, total - across, 0.0))
        alike, seen = alike * decay, seen * decay
        end = jnp.sum(log_gate, axis=0, keepdims=True)
        keys, reads, teaches = k * jnp.exp(total), q * jnp.exp(total), k * jnp.exp(end - total)
    solve = invert(jnp.where(row > column, beta * alike, 0.0), exact)
    new = times(solve, beta * (v - times(keys, state)))
    o = times(reads, state) + times(jnp.where(row >= column, seen, 0.0), new)
    kept = state if log_gate is None else jnp.exp(end) * state
    return o, kept + times(teaches, new, left=True)


def inverse(lower: Array, exact: Exact) -> Array:
    """(I + lower)^-1 of a strictly lower triangular matrix `[n, n]`, n a power of two.

    T holds the inverses of blocks on the diagonal, at first of size 1. With L what lies below them in blocks twice as
    large, T - T L T holds the inverses of those: products alone, and no powers of `lower`, which may be huge.
    """
    n = lower.shape[0]
    row, column = (lax.broadcasted_iota(jnp.int32, lower.shape, axis) for axis in (0, 1))
    found = jnp.where(row == column, 1.0, 0.0).astype(lower.dtype)
    for level in range(n.bit_length() - 1):
        below = ((row >> level) == (column >> level) + 1) & (row >> (level + 1) == column >> (level + 1))
        found = found - product(exact, product(exact, found, jnp.where(below, lower, 0.0)), found)
    return found


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def solved(lower: Array, exact: Exact) -> Array:
    """`inverse`, whose gradient takes two products with what was found."""
    return inverse(lower, exact)


def _slope(exact: Exact, found: Array, g: Array) -> tuple[Array]:
    return (-product(exact, product(exact, found, g, left=True), found, right=True),)


solved.defvjp(lambda lower, exact: (inverse(lower, exact),) * 2, _slope)


def product(exact: Exact, a: Array, b: Array, left: bool = False, right: bool = False) -> Array:
    """a b; a^T b if `left`; a b^T if `right`."""
    sides = (((0 if left else 1,), (1 if right else 0,)), ((), ()))
    return lax.dot_general(a, b, sides, precision=exact, preferred_element_type=a.dtype)
