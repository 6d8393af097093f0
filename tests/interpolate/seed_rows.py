"""Rows of BCWI and its slow numpy truths."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import wspace as ws
from tests.rows import Row, like


def bcwi(leaves: list[np.ndarray], sides: Any, key: Any, alpha: float, fisher: bool = False) -> np.ndarray:
    old, new = leaves
    f, g = (sides["fisher_old"], sides["fisher_new"]) if fisher else (np.ones_like(old), np.ones_like(new))
    return np.average([old, new], axis=0, weights=[alpha * f, (1 - alpha) * g])


def fishers(trees: Any, rng: np.random.Generator) -> dict[str, Any]:
    """Positive side trees."""

    def positive(x: Any) -> Any:
        return jnp.abs(x) + jnp.asarray(0.1, x.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return {name: jax.tree.map(positive, like(trees[0], rng)) for name in ("fisher_old", "fisher_new")}


ALPHA: dict[str, Any] = {"settings": {"alpha": 0.3}, "numeric": {"alpha": 0.8}, "trees": 2, "equal": {"alpha": 0.3}}

ROWS = [
    Row("interpolate.bcwi", ws.interpolate.bcwi, bcwi, **ALPHA),
    Row(
        "interpolate.bcwi(fisher)",
        ws.interpolate.bcwi,
        bcwi,
        **{**ALPHA, "settings": {"alpha": 0.3, "fisher": True}},
        sides=fishers,
    ),
]
