"""Grids: which numbers codes stand for. A format is a Grid; which weights share its scales is a Block; a solver asks
for nothing else.

    scales = fit(w, grid, block);   codes = encode(w, grid, scales);   w ~ decode(codes, grid, scales)

Matrices are `[..., in, out]`. A Block of `(group, width)` inputs and outputs shares scales, which are kept as
`[..., in/group, out/width]`, with one axis more where a scale is a table. A Grid itself sees blocks as
`[..., in/group, group, out/width, width]` and scales with ones in their place, so that all it does is element-wise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from wspace.core.errors import ShapeError, WspaceError
from wspace.core.typing import Array
from wspace.stats.groups import check_group
from wspace.stats.sharding import explicit, gathered, shards

Scales: TypeAlias = Mapping[str, Array]
Group: TypeAlias = int | Literal["tensor"] | tuple[int | None, int | None] | None
WITHIN = (-3, -1)  # the axes of a block's own inputs and outputs
NEAR = 2.0**-12  # of a step: a weight so little below a level is on it


class Block(NamedTuple):
    """How many inputs and outputs share scales."""

    group: int
    width: int


@dataclass(frozen=True)
class Grid:
    """One format: hashable, so that it can be static; `wspace.quant.formats.named(grid.name)` is the grid again.

    bits: what a code takes in a file. A subclass gives fit, encode and decode, on blocks.
    """

    name: str
    bits: int

    @property
    def code_dtype(self) -> str:
        """The dtype of codes in memory."""
        return "uint8"

    @property
    def whole(self) -> bool:
        """Whether the scales of one block depend on the other blocks, so that all must be fitted at once."""
        return False

    def fit(self, x: Array, shrink: Array | float = 1.0) -> dict[str, Array]:
        """The scales of blocks, in the dtype of x; `shrink` is how far to draw in the range, 1: not at all.

        A block of zeros has scale 1 (next to nothing on a grid without a zero); a block with a NaN or an infinity has
        scale NaN, so that it decodes to NaN.
        """
        raise TypeError(f"{type(self).__name__} does not define fit()")

    def encode(self, x: Array, scales: Scales) -> Array:
        """The nearest codes."""
        raise TypeError(f"{type(self).__name__} does not define encode()")

    def decode(self, codes: Array, scales: Scales) -> Array:
        """What codes stand for, in the dtype of the scales."""
        raise TypeError(f"{type(self).__name__} does not define decode()")

    def neighbours(self, x: Array, scales: Scales) -> tuple[Array, Array]:
        """The codes on either side of x: on a level, it and the next one; on or beyond the outermost, twice that."""
        raise WspaceError(f"grid {self.name} has no order of its levels, which a choice between neighbours needs")

    def straight(self, x: Array, scales: Scales) -> Array:
        """The nearest values, with gradients as if rounding did nothing: to x unless it is clipped, and to the scales.

        d q / d x = [x is not clipped],   d q / d s = q / s - x / s [x is not clipped]
        """
        raise WspaceError(f"grid {self.name} has no gradients of its scales; learn on integers, levels or powers")

    def unit(self, scales: Scales) -> Array:
        """The size in which levels are counted, in weight units: what one step is on a grid of equal steps."""
        return scales["scale"]

    def fit_ends(self, x: Array, low: Array, high: Array) -> dict[str, Array]:
        """The scales with the two ends of the range drawn in apart, differentiable in both. Grids that scale by the
        largest magnitude look at `high` alone."""
        return self.fit(x, high)

    def stored(self, name: str, part: Array) -> Array:
        """A scale as a file keeps it, in its narrowest dtype."""
        return part


@partial(jax.jit, static_argnames=("grid", "block"))
def fit(w: Array, grid: Grid, block: Block, shrink: Array | float = 1.0) -> dict[str, Array]:
    """The scales of w `[..., in, out]`; shrink is a number, or one a block `[..., in/group, out/width]`."""
    x = blocks(w, w.shape[-2] // block.group, w.shape[-1] // block.width)
    factor = widened(shrink, w.ndim) if isinstance(shrink, jax.Array) and shrink.ndim else shrink
    return {name: jnp.squeeze(s, (w.ndim - 1, w.ndim + 1)) for name, s in grid.fit(x, factor).items()}


@partial(jax.jit, static_argnames="grid")
def encode(w: Array, grid: Grid, scales: Scales) -> Array:
    """The nearest codes `[..., in, out]`."""
    return _beside(unblocked(grid.encode(_like(w, scales), _widened(scales, w.ndim))), w)


@partial(jax.jit, static_argnames="grid")
def decode(codes: Array, grid: Grid, scales: Scales) -> Array:
    """The weights that codes stand for, `[..., in, out]` in the dtype of the scales."""
    return _beside(unblocked(grid.decode(_like(codes, scales), _widened(scales, codes.ndim))), codes)


def rounded(w: Array, grid: Grid, scales: Scales) -> Array:
    """w on the grid: encoded and decoded."""
    return decode(encode(w, grid, scales), grid, scales)


@partial(jax.jit, static_argnames="grid")
def straight(w: Array, grid: Grid, scales: Scales) -> Array:
    """The same, with straight-through gradients to w and to the scales."""
    return _beside(unblocked(grid.straight(_like(w, scales), _widened(scales, w.ndim))), w)


@partial(jax.jit, static_argnames="grid")
def neighbours(w: Array, grid: Grid, scales: Scales) -> tuple[Array, Array]:
    """The codes `[..., in, out]` on either side of w."""
    below, above = grid.neighbours(_like(w, scales), _widened(scales, w.ndim))
    return unblocked(below), unblocked(above)


def units(w: Array, grid: Grid, scales: Scales) -> Array:
    """For every weight the size in which its levels are counted, `[..., in, out]`."""
    x = _like(w, scales)
    return unblocked(jnp.zeros_like(x) + grid.unit(_widened(scales, w.ndim)))


@partial(jax.jit, static_argnames="grid")
def fit_ends(w: Array, grid: Grid, low: Array, high: Array) -> dict[str, Array]:
    """The scales of w, the ends of each block's range drawn in by factors `[..., in/group, out/width]`."""
    x = blocks(w, *low.shape[w.ndim - 2 : w.ndim])
    fitted = grid.fit_ends(x, widened(low, w.ndim), widened(high, w.ndim))
    return {name: jnp.squeeze(s, (w.ndim - 1, w.ndim + 1)) for name, s in fitted.items()}


def block_of(w: Array, group: Group, path: str) -> Block:
    """The block of a matrix `[..., in, out]`. group: inputs that share scales, for each output; None: all inputs;
    "tensor": all inputs and outputs; a pair: inputs and outputs, None for all.

    Raises:
      ShapeError: the numbers do not divide the inputs or outputs, or a block spans devices.
    """
    inputs, outputs = (None, None) if group == "tensor" else group if isinstance(group, tuple) else (group, 1)
    if inputs is not None:
        check_group(w, inputs, "group", path)
    if outputs is not None and (outputs < 1 or w.shape[-1] % outputs):
        raise ShapeError(
            f"{path} has {w.shape[-1]} outputs, which a block of {outputs} does not divide; "
            f"use a divisor of {w.shape[-1]}"
        )
    here = w.shape[-1] // shards(w, -1)
    if outputs is not None and here % outputs and outputs != w.shape[-1]:
        raise ShapeError(
            f"{path} has {here} of its {w.shape[-1]} outputs a device, which blocks of {outputs} do not divide; "
            f"use a divisor of {here}, or shard the inputs"
        )
    return Block(inputs or max(w.shape[-2], 1), outputs or max(w.shape[-1], 1))


def blocks(x: Array, down: int, across: int) -> Array:
    """`[..., in, out]` as `[..., down, in/down, across, out/across]`."""
    return _split(_split(x, x.ndim - 2, down), x.ndim, across)


def unblocked(x: Array) -> Array:
    """The inverse of `blocks`."""
    return _merged(_merged(x, x.ndim - 2), x.ndim - 4)


def widened(part: Array, rank: int) -> Array:
    """A scale `[..., in/group, out/width, ...]` beside blocks of a matrix of this rank: `[..., in/group, 1, ...]`."""
    return jnp.expand_dims(part, (rank - 1, rank + 1))


def _widened(scales: Scales, rank: int) -> dict[str, Array]:
    return {name: widened(part, rank) for name, part in scales.items()}


def _like(x: Array, scales: Scales) -> Array:
    """x in the blocks of its scales: the finest of them."""
    down, across = (max(part.shape[axis] for part in scales.values()) for axis in (x.ndim - 2, x.ndim - 1))
    return blocks(x, down, across)


def _beside(x: Array, y: Array) -> Array:
    """x where y of the same shape lies, though blocks that span devices were brought together."""
    sharding = explicit(y)
    return x if sharding is None else jax.sharding.reshard(x, sharding)


def _split(x: Array, axis: int, parts: int) -> Array:
    """One axis as two, `parts` first. Where one of them is 1 nothing moves, on any sharding; parts that span devices
    are brought together."""
    size = x.shape[axis]
    if parts in (1, size):
        return jnp.expand_dims(x, axis + (parts == size))
    if parts % shards(x, axis):
        x = gathered(x, axis)
    return jnp.reshape(x, (*x.shape[:axis], parts, size // max(parts, 1), *x.shape[axis + 1 :]))


def _merged(x: Array, axis: int) -> Array:
    """An axis and the next as one."""
    a, b = x.shape[axis : axis + 2]
    if 1 in (a, b):
        return jnp.squeeze(x, axis if a == 1 else axis + 1)
    return jnp.reshape(x, (*x.shape[:axis], a * b, *x.shape[axis + 2 :]))


def step(size: Array) -> Array:
    """A scale from the size of a step: 1 for zero, at least the smallest normal number, NaN if it is not finite."""
    least = jnp.maximum(size, jnp.finfo(size.dtype).tiny)
    return jnp.where(size == 0, 1, jnp.where(jnp.isfinite(size), least, jnp.nan))


def in_steps(x: Array, scale: Array) -> Array:
    """x / scale.

    XLA turns a division by a broadcast array into a product with its reciprocal, in some programs and not in others.
    Here it always is one. Scales above 1 are divided by 2^8 first: the reciprocal of 1e38 would be flushed to zero.
    """
    shrink = jnp.where(scale > 1, 2.0**-8, 1.0).astype(scale.dtype)
    return x * shrink * (1 / (scale * shrink))
