"""Codebook grids: a few values of each block's own, found by k-means."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
from jax import lax

from wspace.core.typing import Array
from wspace.quant.grid import WITHIN, Grid, Scales

SWEEPS = 20


@dataclass(frozen=True)
class Codebook(Grid):
    """2^bits values for each block, rising: the k-means of its weights, by Lloyd's algorithm.

    scales: "table", `[..., in/group, out/width, 2^bits]`. They start at the middles of 2^bits equal parts of the range;
    a value that no weight is nearest to stays where it is. With as many values as a block has different weights, or
    more, and those far enough apart, the codes are exact.
    """

    def fit(self, x: Array, shrink: Array | float = 1.0) -> dict[str, Array]:
        low = jnp.min(x, axis=WITHIN, keepdims=True, initial=jnp.inf)
        high = jnp.max(x, axis=WITHIN, keepdims=True, initial=-jnp.inf)
        low, high = (jnp.where(jnp.isinf(edge) & (x.size == 0), 0, edge) for edge in (low, high))
        middle, half = low / 2 + high / 2, jnp.asarray(shrink, x.dtype) * (high / 2 - low / 2)
        k = 2**self.bits
        places = (2 * jnp.arange(k, dtype=x.dtype) + 1) / k - 1
        table = middle[..., None] + half[..., None] * places.reshape((1,) * x.ndim + (k,))

        def sweep(_: int, table: Array) -> Array:
            mine = _is_code(self.encode(x, {"table": table}), k)
            count = jnp.sum(mine, axis=tuple(a - 1 for a in WITHIN), keepdims=True)
            offset = jnp.where(mine, x[..., None] - table, 0)
            moved = jnp.sum(offset, axis=tuple(a - 1 for a in WITHIN), keepdims=True)
            return table + jnp.where(count > 0, moved / jnp.maximum(count, 1).astype(x.dtype), 0)

        return {"table": lax.fori_loop(0, SWEEPS, sweep, table)}

    def encode(self, x: Array, scales: Scales) -> Array:
        """How many borders between neighbouring values lie below x."""
        table = scales["table"]
        borders = table[..., :-1] / 2 + table[..., 1:] / 2
        return jnp.sum(x[..., None] > borders, axis=-1, dtype=jnp.uint8)

    def decode(self, codes: Array, scales: Scales) -> Array:
        table = scales["table"]
        return jnp.sum(jnp.where(_is_code(codes, table.shape[-1]), table, 0), axis=-1)


def _is_code(codes: Array, k: int) -> Array:
    """Which of the k codes each one is, on a new last axis."""
    return codes[..., None] == lax.broadcasted_iota(codes.dtype, (*codes.shape, k), codes.ndim)
