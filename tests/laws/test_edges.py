"""Deleted, an empty, tiny, all-zero or NaN leaf could crash a method, make NaN out of zeros, or poison other leaves."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import wspace as ws
from tests.rows import ROWS, Row, tree, weights
from wspace.core.errors import ShapeError


def run(row: Row, **kernels: Any) -> dict[str, np.ndarray]:
    """The method on example trees whose dense kernel is replaced; a ShapeError that names the leaf is fine too."""
    rng = np.random.default_rng(5)
    trees = []
    for _ in range(row.trees):
        t = tree(rng, matrices=row.matrices)
        t["dense"] = {**t["dense"], **kernels}
        trees.append(t)
    trees, given = row.given(tuple(trees), rng)
    try:
        return weights(row.transform()(*trees, **given))
    except ShapeError as error:
        assert "dense/kernel" in str(error)
        return {"dense/kernel": np.zeros(kernels["kernel"].shape)}


@pytest.mark.parametrize("row", ROWS, ids=str)
@pytest.mark.parametrize("shape", [(0, 8), (1, 1)], ids=["empty", "one"])
def test_empty_and_tiny_leaves(row: Row, shape: tuple[int, int]) -> None:
    got = run(row, kernel=jnp.full(shape, 0.5))["dense/kernel"]
    assert got.shape == shape and np.isfinite(got).all()


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_all_zero_leaf_gives_finite_numbers(row: Row) -> None:
    assert all(np.isfinite(x).all() for x in run(row, kernel=jnp.zeros((16, 8))).values())


@pytest.mark.parametrize("row", [r for r in ROWS if r.transform().scope == "leaf"], ids=str)
def test_a_nan_stays_in_its_leaf(row: Row) -> None:
    sick = run(row, kernel=jnp.full((16, 8), jnp.nan))
    assert all(np.isfinite(x).all() for path, x in sick.items() if path != "dense/kernel")


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_plan_works_on_shapes_and_tells_the_truth(row: Row) -> None:
    from wspace.core.align import abstract
    from wspace.core.containers import as_params, show
    from wspace.core.implicit import stored_bits

    trees, given = row.example()
    shapes = {k: v if k == "key" else abstract(v) for k, v in given.items()}
    plan = ws.plan(row.transform(), *abstract(trees), **shapes)
    assert plan.passes == row.transform().passes
    made = {show(p): x for p, x in as_params(row.result).leaves.items()}
    assert {r.path for r in plan.rows} == made.keys()
    for r in plan.rows:
        assert r.bytes_out == -(-stored_bits(made[r.path]) // 8), r.path
    assert all(r.path in str(plan) for r in plan.rows)
