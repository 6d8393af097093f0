"""How far the range of a block is drawn in: large weights are clipped, and all others get finer steps.

scales = fit(w, grid, block, shrink),   shrink = 1: no weight is clipped
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import jax.numpy as jnp
from jax import lax

from wspace.core.errors import WspaceError, nearest
from wspace.core.typing import Array
from wspace.quant.grid import WITHIN, Block, Grid, Scales, blocks, fit, rounded
from wspace.stats.groups import grouped, ungrouped
from wspace.stats.quantile import kth_along


@dataclass(frozen=True)
class Search:
    """The ratio of the full range with the least error, for each block: of 1 - k (1 - least) / steps, 0 <= k < steps.

        of = "weight":  sum_ij |e_ij|^power,   e = Q(w) - w
        of = "input":   sum_ij m_i |e_ij|^power,   m_i the mean square of input i
        of = "output":  sum_j e_j^T G e_j,   G the Gram matrix of the block's inputs

    The default's 80 ratios from 1 down to 0.21 are those of GPTQ's code; AWQ's are `Search(10, 0.5, of="output")`.
    """

    steps: int = 80
    least: float = 0.2
    power: float = 2.0
    of: Literal["weight", "input", "output"] = "weight"


@dataclass(frozen=True)
class Percentile:
    """The range that this fraction of a block's magnitudes lies in; at least the largest is in it at 1."""

    fraction: float = 0.999


Scale: TypeAlias = Literal["absmax", "mse", "l2.4", "weighted", "output", "percentile"] | Search | Percentile
BY_NAME: dict[str, Search | Percentile | None] = {
    "absmax": None,
    "mse": Search(),
    "l2.4": Search(power=2.4),
    "weighted": Search(of="input"),
    "output": Search(10, 0.5, of="output"),
    "percentile": Percentile(),
}


def choice(scale: Scale) -> Search | Percentile | None:
    """What a name stands for; None: the full range.

    Raises:
      WspaceError: an unknown name; a search without steps; a fraction or a least ratio outside 0..1.
    """
    if isinstance(scale, str) and scale not in BY_NAME:
        raise WspaceError(f"there is no choice of scale {scale!r}.{nearest(scale, BY_NAME)}")
    how = BY_NAME[scale] if isinstance(scale, str) else scale
    share = how.least if isinstance(how, Search) else how.fraction if how else 1.0
    if not 0 <= share <= 1 or (isinstance(how, Search) and how.steps < 1):
        raise WspaceError(f"{how} is no choice of scale: ratios are within 0..1, and a search has at least one step")
    return how


def needs_gram(how: Search | Percentile | None) -> bool:
    """Whether the choice weighs errors by the inputs' statistics."""
    return isinstance(how, Search) and how.of != "weight"


def weighing(gram: Array, block: Block, how: Search | Percentile | None) -> Array | None:
    """What a search weighs errors by, from gram `[..., in, in]`: its diagonal `[..., in]`; or, for errors of outputs,
    of each input the entries that it has with its group's, `[..., in, group]`."""
    if not isinstance(how, Search) or how.of == "weight":
        return None
    if how.of == "input":
        return jnp.diagonal(gram, axis1=-2, axis2=-1)
    *stack, inputs, _ = gram.shape
    n = inputs // block.group
    parts = gram.reshape(*stack, n, block.group, n, block.group)
    own = jnp.diagonal(parts, axis1=-4, axis2=-2)  # [..., group, group, n]
    return jnp.moveaxis(own, -1, -3).reshape(*stack, inputs, block.group)


def fitted(
    w: Array, grid: Grid, block: Block, how: Search | Percentile | None = None, weights: Array | None = None
) -> Scales:
    """The scales of w `[..., in, out]` with its blocks' ranges drawn in as `how` says.

    weights: as `weighing` gives them. A block with a NaN has scale NaN.
    """
    if how is None or w.size == 0:
        return fit(w, grid, block)
    if isinstance(how, Percentile):
        return fit(w, grid, block, _percentile(w, block, how.fraction))
    return fit(w, grid, block, _searched(w, grid, block, how, weights))


def _per_block(x: Array, block: Block) -> Array:
    """The sum over each block: `[..., in/group, out/width]`."""
    return jnp.sum(blocks(x, x.shape[-2] // block.group, x.shape[-1] // block.width), axis=WITHIN)


def _searched(w: Array, grid: Grid, block: Block, how: Search, weights: Array | None) -> Array:
    def try_next(k: Array, best: tuple[Array, Array]) -> tuple[Array, Array]:
        ratio = 1 - k.astype(w.dtype) * ((1 - how.least) / how.steps)
        error = _error(rounded(w, grid, fit(w, grid, block, ratio)) - w, how, block, weights)
        total = _per_block(error, block)
        if grid.whole:  # the scales hang together: one ratio for all
            total = jnp.zeros_like(total) + jnp.sum(total, axis=(-2, -1), keepdims=True)
        found, least = best
        better = total < least
        return jnp.where(better, ratio, found), jnp.where(better, total, least)

    start = jnp.ones_like(_per_block(w, block))
    return lax.fori_loop(0, how.steps, try_next, (start, jnp.inf * start))[0]


def _error(e: Array, how: Search, block: Block, weights: Array | None) -> Array:
    """What each weight adds to the error of its block."""
    if how.of == "output" and weights is not None:
        gram = grouped(weights, block.group)
        return e * ungrouped(jnp.matmul(gram, grouped(e, block.group), precision=lax.Precision.HIGHEST))
    error = jnp.square(e) if how.power == 2 else jnp.abs(e) ** how.power
    return error if weights is None else error * weights[..., None]


def _percentile(w: Array, block: Block, fraction: float) -> Array:
    """The least magnitude that at least `fraction` of a block's magnitudes do not exceed, over the largest."""
    parts = blocks(w, w.shape[-2] // block.group, w.shape[-1] // block.width)
    above = int((1 - fraction) * block.group * block.width + 1e-9)
    size = jnp.squeeze(kth_along(parts, min(above, block.group * block.width - 1) + 1, WITHIN), WITHIN)
    most = jnp.max(jnp.abs(parts), axis=WITHIN)
    return jnp.where(most == 0, 1, size / jnp.where(most == 0, 1, most)).astype(w.dtype)
