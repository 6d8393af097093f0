"""The formula, on whole arrays or, for the kernels, on blocks of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from wspace.core.typing import Array


def merge_many(
    leaves: tuple[Array, ...],
    base: Array | None,
    numbers: Array,
    keys: Array | None,
    *,
    elect: bool,
    normalize: bool,
    trims: bool,
) -> Array:
    """numbers: `[4, n]`: weights, least, density, lam."""
    given = (*leaves, *(() if base is None else (base,)))
    wide = jnp.float64 if any(x.dtype == jnp.float64 for x in given) else jnp.float32
    draws = None if keys is None else [_draws(keys[k], x) for k, x in enumerate(leaves)]
    start = None if base is None else base.astype(wide)
    merged = combine(
        [x.astype(wide) for x in leaves],
        start,
        numbers.astype(wide),
        draws,
        elect=elect,
        normalize=normalize,
        trims=trims,
    )
    return merged.astype(leaves[0].dtype)


def _draws(key: Array, like: Array) -> Array:
    """A number in 0..1 for each entry, by key and position."""
    return jax.random.uniform(key, like.shape, jnp.float32, out_sharding=jax.typeof(like).sharding)


def combine(
    leaves: Sequence[Array],
    base: Array | None,
    numbers: Any,
    draws: Sequence[Array] | None,
    *,
    elect: bool,
    normalize: bool,
    trims: bool,
) -> Array:
    """Entry by entry, in one floating dtype. numbers: anything that `numbers[row, k]` gives scalars of."""
    shares = []
    for k, leaf in enumerate(leaves):
        d = leaf if base is None else leaf - base
        if trims:
            d = jnp.where(jnp.abs(d) >= numbers[1, k], d, 0)
        if draws is not None:
            density = numbers[2, k]
            d = jnp.where(draws[k] < density.astype(jnp.float32), d / jnp.where(density > 0, density, 1), 0)
        shares.append(numbers[0, k] * d)
    merged = sum(shares[1:], shares[0])
    if elect:
        sign = jnp.sign(merged)
        agrees = [(jnp.sign(x) == sign) & (x != 0) for x in shares]
        merged = sum((jnp.where(yes, x, 0) for yes, x in zip(agrees, shares, strict=True)), jnp.zeros_like(merged))
        if normalize:
            total = sum((jnp.where(yes, numbers[0, k], 0) for k, yes in enumerate(agrees)), jnp.zeros_like(merged))
            merged = merged / jnp.where(total == 0, 1, total)
    merged = numbers[3, 0] * merged
    return merged if base is None else base + merged
