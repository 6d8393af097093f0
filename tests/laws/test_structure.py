"""Deleted, a transform could change the structure, a shape, a dtype, or touch a leaf that must pass through."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

import wspace as ws
from tests.rows import ROWS, Row
from wspace.core.containers import as_params


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_structure_shape_and_dtype_stay(row: Row) -> None:
    trees, _ = row.example()
    before, after = as_params(trees[0]).leaves, as_params(row.result).leaves
    assert list(before) == list(after)
    for path, leaf in before.items():
        if leaf is None:
            assert after[path] is None
        else:
            assert (after[path].shape, after[path].dtype) == (leaf.shape, leaf.dtype), path
    assert row.result["step"] == 7 and row.result["step"].dtype == jnp.int32
    dense = ws.materialize(row.result)
    assert jax.tree.structure(dense) == jax.tree.structure(trees[0])
