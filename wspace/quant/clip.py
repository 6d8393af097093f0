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
from wspace.stats.quantile import kth_along


@dataclass(frozen=True)
class Search:
    """The ratio of the full range with the least error, for each block.

        min over t of  sum_ij m_i |Q_t(w_ij) - w_ij|^power,   t = 1 - k (1 - least) / steps,  k = 0 .. steps - 1

    weighted: m_i is the mean square of input i, from the Gram matrix; else 1. The default's 80 ratios from 1 down to
    0.21 are those of GPTQ's code; `Search(10, 0.5)` are AWQ's.
    """

    steps: int = 80
    least: float = 0.2
    power: float = 2.0
    weighted: bool = False


@dataclass(frozen=True)
class Percentile:
    """The range that this fraction of a block's magnitudes lies in; at least the largest is in it at 1."""

    fraction: float = 0.999


Scale: TypeAlias = Literal["absmax", "mse", "l2.4", "weighted", "percentile"] | Search | Percentile
BY_NAME: dict[str, Search | Percentile | None] = {
    "absmax": None,
    "mse": Search(),
    "l2.4": Search(power=2.4),
    "weighted": Search(weighted=True),
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


def is_weighted(scale: Scale) -> bool:
    """Whether the choice needs the mean squares of the inputs."""
    how = choice(scale)
    return isinstance(how, Search) and how.weighted


def fitted(
    w: Array, grid: Grid, block: Block, how: Search | Percentile | None = None, moments: Array | None = None
) -> Scales:
    """The scales of w `[..., in, out]` with its blocks' ranges drawn in as `how` says.

    moments: `[..., in]`, what a weighted search weighs the errors of inputs by. A block with a NaN has scale NaN.
    """
    if how is None or w.size == 0:
        return fit(w, grid, block)
    if isinstance(how, Percentile):
        return fit(w, grid, block, _percentile(w, block, how.fraction))
    return fit(w, grid, block, _searched(w, grid, block, how, moments if how.weighted else None))


def _per_block(x: Array, block: Block) -> Array:
    """The sum over each block: `[..., in/group, out/width]`."""
    return jnp.sum(blocks(x, x.shape[-2] // block.group, x.shape[-1] // block.width), axis=WITHIN)


def _searched(w: Array, grid: Grid, block: Block, how: Search, moments: Array | None) -> Array:
    def try_next(k: Array, best: tuple[Array, Array]) -> tuple[Array, Array]:
        ratio = 1 - k.astype(w.dtype) * ((1 - how.least) / how.steps)
        error = _error(w, rounded(w, grid, fit(w, grid, block, ratio)), how.power, moments)
        total = _per_block(error, block)
        if grid.whole:  # the scales hang together: one ratio for all
            total = jnp.zeros_like(total) + jnp.sum(total, axis=(-2, -1), keepdims=True)
        found, least = best
        better = total < least
        return jnp.where(better, ratio, found), jnp.where(better, total, least)

    start = jnp.ones_like(_per_block(w, block))
    return lax.fori_loop(0, how.steps, try_next, (start, jnp.inf * start))[0]


def _error(w: Array, q: Array, power: float, moments: Array | None) -> Array:
    away = jnp.abs(q - w)
    error = jnp.square(away) if power == 2 else away**power
    return error if moments is None else error * moments[..., None]


def _percentile(w: Array, block: Block, fraction: float) -> Array:
    """The least magnitude that at least `fraction` of a block's magnitudes do not exceed, over the largest."""
    parts = blocks(w, w.shape[-2] // block.group, w.shape[-1] // block.width)
    above = int((1 - fraction) * block.group * block.width + 1e-9)
    size = jnp.squeeze(kth_along(parts, min(above, block.group * block.width - 1) + 1, WITHIN), WITHIN)
    most = jnp.max(jnp.abs(parts), axis=WITHIN)
    return jnp.where(most == 0, 1, size / jnp.where(most == 0, 1, most)).astype(w.dtype)
