"""Deleted, a method could work eagerly and fail or differ under jit, or under vmap over stacked layers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from tests.rows import ROWS, Row, close, weights


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_compiled_vmap_equals_eager_calls(row: Row) -> None:
    """Two models stacked on a new axis and mapped, against each on its own; the random key is shared.

    One program for both laws. The sharding law compiles every method without vmap, and compares as well.
    """
    both = [row.example(seed) for seed in (0, 1)]
    key = both[0][1].get("key")
    fixed = {} if key is None else {"key": key}
    sides = [{k: v for k, v in given.items() if k != "key"} for _, given in both]

    def run(trees: Any, sides: Any) -> Any:
        return row.transform()(*trees, **sides, **fixed)

    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), (both[0][0], sides[0]), (both[1][0], sides[1]))
    mapped = jax.jit(jax.vmap(run))(*stacked)
    for k, alone in enumerate((row.result, run(both[1][0], sides[1]))):
        close(jax.tree.map(lambda x, k=k: x[k], mapped), weights(alone), row.tolerance)
