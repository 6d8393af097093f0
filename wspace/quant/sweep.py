"""A walk down the inputs of a matrix, one after another, in which what was done to one changes those that follow.

    for each input i:  e_i = solve(w_i);   w_j <- w_j - F_ij e_i   for every j

GPTQ is this walk with the factor of the inverse Gram matrix as F, coordinate descent with the Gram matrix itself.
It costs what matrix products cost: inputs are solved in nested blocks, and a block's errors are carried on at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from wspace.core.typing import Array

MICRO = 16  # inputs solved one by one before a matrix product carries their errors on
Solve = Callable[[Array, Any, Any], tuple[Any, ...]]  # (w of some inputs, F among them, their rows) -> (errors, ...)


def sweep(w: Array, factor: Any, rows: Any, sizes: tuple[int, ...], solve: Solve) -> tuple[Array, tuple[Any, ...]]:
    """w `[in, out]` after the walk, and what `solve` gave, of all inputs.

    factor: F `[in, in]`; or several, in a tuple, with as many errors. rows: arrays `[in, ...]` of which solve gets its
    inputs' part. sizes: how many inputs the nested blocks have, as `nested` gives them; solve gets the innermost.
    A block's own inputs are changed as well, once it is done.
    """
    if not sizes:
        return w, solve(w, factor, rows)
    size, *inner = sizes

    def step(w: Array, i: Array) -> tuple[Array, tuple[Any, ...]]:
        def at(x: Array, axis: int = 0) -> Array:
            return lax.dynamic_slice_in_dim(x, i * size, size, axis)

        across = jax.tree.map(at, factor)
        corner = jax.tree.map(lambda x: at(x, 1), across)
        _, solved = sweep(at(w), corner, jax.tree.map(at, rows), tuple(inner), solve)
        change = jax.tree.map(_product, across, solved[0])
        return w - sum(jax.tree.leaves(change)[1:], jax.tree.leaves(change)[0]), solved

    w, solved = lax.scan(step, w, jnp.arange(w.shape[0] // size))
    return w, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), solved)


def _product(across: Array, errors: Array) -> Array:
    if errors.shape[0] == 1:
        return across.T * errors
    return jnp.matmul(across.T, errors, precision=lax.Precision.HIGHEST)


def nested(inputs: int, group: int, carry: int) -> tuple[int, ...]:
    """How many inputs the nested blocks have: each a divisor of the one before, the group among them, 1 the last.

    >>> nested(4096, 64, 128), nested(4096, 4096, 128), nested(4096, 1024, 128)
    ((128, 64, 16, 1), (128, 16, 1), (1024, 128, 16, 1))
    """
    outer = _divisor(group, carry) if group > carry else _divisor(inputs, carry, group)
    return tuple(sorted({group, outer, _divisor(min(group, outer), MICRO), 1} - {inputs}, reverse=True))


def _divisor(n: int, most: int, step: int = 1) -> int:
    """The largest divisor of n up to `most` that is a multiple of `step`."""
    return max(d for d in range(step, most + 1, step) if n % d == 0)
