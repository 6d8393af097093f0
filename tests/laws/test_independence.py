"""Deleted, a leaf's result could depend on leaf order or on other leaves, or a method could write into its input."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from tests.rows import ROWS, Row
from wspace.core.containers import as_params, is_weight, show


def leaves(tree: Any) -> dict[str, list[np.ndarray]]:
    """The arrays of every floating leaf (the parts of an Implicit one) by path."""
    flat = as_params(tree).leaves
    return {show(p): [np.asarray(a) for a in jax.tree.leaves(x)] for p, x in flat.items() if is_weight(x)}


def without(tree: Any, name: str) -> Any:
    if isinstance(tree, dict) and name in tree:
        return {k: v for k, v in tree.items() if k != name}
    return tuple(without(t, name) for t in tree) if isinstance(tree, tuple) else tree


def backwards(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {k: backwards(v) for k, v in reversed(tree.items())}
    return tuple(map(backwards, tree)) if isinstance(tree, tuple) else tree


def same(got: Any, want: dict[str, list[np.ndarray]]) -> None:
    for path, parts in leaves(got).items():
        for a, b in zip(parts, want[path], strict=True):
            np.testing.assert_array_equal(a, b, err_msg=path)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_leaf_order_changes_nothing(row: Row) -> None:
    trees, given = row.example()
    got = row.transform()(*backwards(trees), **{k: backwards(v) for k, v in given.items()})
    assert next(iter(got)) == "unused"
    same(got, leaves(row.result))


@pytest.mark.parametrize("row", [r for r in ROWS if r.transform().scope != "global"], ids=str)
def test_other_leaves_change_nothing(row: Row) -> None:
    trees, given = row.example()
    got = row.transform()(*without(trees, "dense"), **{k: without(v, "dense") for k, v in given.items()})
    same(got, leaves(row.result))


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_inputs_stay_as_they_were(row: Row) -> None:
    trees, given = row.example()
    mine = jax.tree.map(lambda x: np.array(x), trees)
    kept = jax.tree.map(lambda x: x.copy(), mine)
    got = row.transform()(*mine, **given)
    same(got, leaves(row.result))
    jax.tree.map(np.testing.assert_array_equal, mine, kept)
    assert not any(x.is_deleted() for x in jax.tree.leaves((trees, given)) if isinstance(x, jax.Array))
