"""A walk down the inputs of a matrix, one after another, in which the errors of others change each.

    for each input j:  e_j = solve(w_j - sum_i F_ji e_i),   i: every other input, with its latest error

GPTQ and coordinate descent are both this walk, with e = q - w: the one with F from a triangular factor of the Gram
matrix, the other with the Gram matrix itself. It costs what matrix products cost: inputs are solved in nested blocks,
and a block takes up the errors of all others at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from wspace.core.typing import Array
from wspace.stats.halves import product

CARRY, MIDDLE, MICRO = 256, 128, 16  # inputs of blocks, and of those within
MANY, PIECES = 2048, 8  # inputs from which on the errors of a triangular walk are counted by pieces, and how many
Solve = Callable[[Array, Any, Any], tuple[Any, ...]]  # (w of some inputs, F among them, their rows) -> (errors, ...)


def sweep(
    w: Array, factor: Any, rows: Any, sizes: tuple[int, ...], solve: Solve, errors: Any = None
) -> tuple[Any, ...]:
    """The errors `[in, out]` after the walk, and what else `solve` gave, of all inputs.

    w: `[in, out]`. factor: F `[in, in]`, whose diagonal is not looked at; or several, in a tuple, with as many errors.
    rows: arrays `[in, ...]` of which solve gets its inputs' part. sizes: how many inputs the nested blocks have, as
    `nested` gives them; solve gets the innermost. errors: those before the walk; None: none.
    """
    if not sizes:
        return solve(w, factor, rows)
    size, *inner = sizes
    lower = errors is None

    def step(errors: Any, i: Array) -> tuple[Any, list[Any]]:
        def at(x: Array, axis: int = 0) -> Array:
            return lax.dynamic_slice_in_dim(x, i * size, size, axis)

        def put(x: Array, new: Array) -> Array:
            return lax.dynamic_update_slice_in_dim(x, new, i * size, 0)

        across = jax.tree.map(at, factor)
        corner = jax.tree.map(lambda f: at(f, 1), across)
        own = None if lower else jax.tree.map(at, errors)
        if not lower:  # its own errors count within the block
            across = jax.tree.map(
                lambda f, c: lax.dynamic_update_slice_in_dim(f, jnp.zeros_like(c), i * size, 1), across, corner
            )
        change = jax.tree.leaves(jax.tree.map(lambda f, e: _taken(f, e, i * size if lower else None), across, errors))
        now = at(w) - sum(change[1:], change[0])
        found, *rest = sweep(now, corner, jax.tree.map(at, rows), tuple(inner), solve, own)
        return jax.tree.map(put, errors, found), rest

    start = jax.tree.map(lambda _: jnp.zeros_like(w), factor) if lower else errors
    errors, rest = lax.scan(step, start, jnp.arange(w.shape[0] // size))
    return errors, *(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), x) for x in rest)


def _taken(across: Array, errors: Array, before: Array | None) -> Array:
    """across times errors; before: the number of inputs that have errors, if the others have none."""
    n = len(errors)
    if before is None or n < MANY:
        return product(across, errors)
    ends = [-(-n * k // PIECES) for k in range(PIECES + 1)]
    pieces = [lambda a, e, end=end: product(a[:, :end], e[:end]) for end in ends]
    return lax.switch((before * PIECES + n - 1) // n, pieces, across, errors)


def nested(inputs: int, group: int, carry: int) -> tuple[int, ...]:
    """How many inputs the nested blocks have: each a divisor of the one before, the group among them, 1 the last.

    >>> nested(4096, 64, 512), nested(4096, 4096, 128), nested(4096, 1024, 512)
    ((512, 128, 64, 16, 1), (128, 16, 1), (1024, 512, 128, 16, 1))
    """
    found, size = {group}, inputs
    for most in (carry, min(carry, MIDDLE), min(carry, MICRO), 1):
        size = _divisor(size, most, group) if most >= group else _divisor(min(size, group), most)
        found.add(size)
    return tuple(sorted(found - {inputs}, reverse=True))


def _divisor(n: int, most: int, step: int = 1) -> int:
    """The largest divisor of n up to `most` that is a multiple of `step`."""
    return max(d for d in range(step, most + 1, step) if n % d == 0)
