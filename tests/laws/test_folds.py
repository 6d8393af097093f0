"""Deleted, a summary could depend on the order in which leaves, files or devices are merged."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from tests.rows import ROWS, Row
from wspace.core.align import align
from wspace.core.fold import Fold
from wspace.core.transform import Context, leaf_key


def lifted(row: Row, fold: Fold, j: int, done: dict[Any, tuple[Any, ...]]) -> dict[Any, list[Any]]:
    """The summaries of every leaf by group, given the results of earlier folds."""
    trees, given = row.example()
    key = given.pop("key", None)
    from wspace.core.containers import as_params

    work = align(row.transform(), [as_params(t).leaves for t in trees], given, None)
    found: dict[Any, list[Any]] = {}
    for path, spec in work.specs.items():
        leaves = tuple(s[path] for s in work.sources)
        summaries = tuple(results.get(f.group(spec)) for f, results in done.get("folds", ()))
        s = fold.lift(leaves, Context(spec, leaf_key(key, spec.path), work.side(path), summaries))
        if s is not None:
            found.setdefault(fold.group(spec), []).append(s)
    return found


def same(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("row", [r for r in ROWS if r.transform().folds], ids=str)
def test_merge_is_associative_and_commutative(row: Row) -> None:
    done: dict[Any, Any] = {"folds": ()}
    for j, fold in enumerate(row.transform().folds):
        groups = lifted(row, fold, j, done)
        results = {}
        for group, parts in groups.items():
            a, b, c = (
                (parts * 3)[:3] if len(parts) < 3 and not isinstance(parts[0], dict) else (parts + parts[:1] * 2)[:3]
            )
            if len(parts) >= 2:
                same(fold.finish(fold.merge(a, b)), fold.finish(fold.merge(b, a)))
            if len(parts) >= 3:
                same(fold.finish(fold.merge(fold.merge(a, b), c)), fold.finish(fold.merge(a, fold.merge(b, c))))
            total = parts[0]
            for part in parts[1:]:
                total = fold.merge(total, part)
            results[group] = fold.finish(total)
        done["folds"] = (*done["folds"], (fold, results))
