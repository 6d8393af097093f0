"""Uniform grids: a scale, and with asymmetric grids a zero, for every group of consecutive inputs of every output.

    w ~ scale (code - zero),   code = clip(round(w / scale + zero), -2^(b-1), 2^(b-1) - 1)

Matrices are `[..., in, out]`; the parts of a Grid are `[..., in/group, out]`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from wspace.core.errors import WspaceError
from wspace.core.typing import Array
from wspace.stats.groups import check_group, grouped, ungrouped


class Grid(NamedTuple):
    """scale: weight units a step, float32 (or float64). zero: the code that stands for 0, int8; None is 0."""

    scale: Array
    zero: Array | None


def limits(bits: int) -> tuple[int, int]:
    """The smallest and the largest code.

    >>> limits(4)
    (-8, 7)
    """
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def fit(w: Array, bits: int, group: int, symmetric: bool) -> Grid:
    """The grid from the extremes of each group.

        symmetric: s = max|w| / (2^(b-1) - 1);   else s = (max(w, 0) - min(w, 0)) / (2^b - 1), and 0 is a code

    A group of zeros has s = 1; s is never below the smallest normal number. A group with a NaN or an infinity has
    s = NaN, so that it decodes to NaN.
    """
    x = grouped(w, group)
    low, high = limits(bits)
    if symmetric:
        return Grid(_step(jnp.max(jnp.abs(x), axis=-2, initial=0) / high), None)
    least, most = jnp.min(x, axis=-2, initial=0), jnp.max(x, axis=-2, initial=0)
    scale = _step(most / (high - low) - least / (high - low))
    return Grid(scale, _integer(jnp.round(-least / scale) + low))


def _step(scale: Array) -> Array:
    least = jnp.maximum(scale, jnp.finfo(scale.dtype).tiny)
    return jnp.where(scale == 0, 1, jnp.where(jnp.isfinite(scale), least, jnp.nan))


def _integer(x: Array) -> Array:
    return jnp.where(jnp.isnan(x), 0, x).astype(jnp.int8)


def encode(w: Array, grid: Grid, bits: int) -> Array:
    """The nearest codes, int8 `[..., in, out]`."""
    # XLA turns a division by a broadcast array into a product with its reciprocal, in some programs and not in others.
    # Here it always is one. Scales above 1 are divided by 2^8 first: the reciprocal of 1e38 would be flushed to zero.
    shrink = jnp.where(grid.scale > 1, 2.0**-8, 1.0).astype(grid.scale.dtype)
    steps = w * of_each_input(shrink, w) * of_each_input(1 / (grid.scale * shrink), w)
    if grid.zero is not None:
        steps = steps + of_each_input(grid.zero, w).astype(w.dtype)
    return _integer(jnp.clip(jnp.round(steps), *limits(bits)))


def decode(codes: Array, grid: Grid) -> Array:
    """The weights that codes stand for, `[..., in, out]` in the dtype of the scale."""
    steps = codes.astype(grid.scale.dtype)
    if grid.zero is not None:
        steps = steps - of_each_input(grid.zero, codes).astype(steps.dtype)
    return steps * of_each_input(grid.scale, codes)


def of_each_input(part: Array, x: Array) -> Array:
    """A part of a grid, `[..., in/group, out]`, as `[..., in, out]` like x."""
    *stack, groups, outputs = part.shape
    return ungrouped(jnp.broadcast_to(part[..., None, :], (*stack, groups, group_of(x, part), outputs)))


def group_of(x: Array, scale: Array) -> int:
    """How many inputs share a scale."""
    return max(x.shape[-2] // max(scale.shape[-2], 1), 1)


def group_size(w: Array, bits: int, group: int | None, path: str) -> int:
    """The inputs that share a scale: `group`, or all of them.

    Raises:
      WspaceError: bits outside 2..8. ShapeError: group does not divide the inputs, or spans devices.
    """
    if not 2 <= bits <= 8:
        raise WspaceError(f"bits={bits} is not supported; a code has 2 to 8 bits")
    if group is None:
        return max(w.shape[-2], 1)
    check_group(w, group, "group", path)
    return group
