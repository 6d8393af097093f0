"""Deleted, a pruner could miss its count, a quantizer its half step, a reparameterization its weight."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import wspace as ws
from tests.rows import ROWS, Row, close, expected, weights
from wspace.core.containers import as_params, is_weight, show


def of(family: str) -> list[Row]:
    return [r for r in ROWS if family in r.families]


@pytest.mark.parametrize("row", of("pruner"), ids=str)
def test_a_pruner_hits_the_exact_count_and_keeps_survivors_as_they_are(row: Row) -> None:
    trees, given = row.example()
    got, before, want = weights(row.result), weights(trees[0]), expected(row, trees, given)
    for path, w in got.items():
        assert np.sum(w == 0) == np.sum(want[path] == 0), path
        np.testing.assert_array_equal(w[w != 0], before[path][w != 0])


@pytest.mark.parametrize("row", of("quantizer"), ids=str)
def test_a_quantizer_is_idempotent(row: Row) -> None:
    trees, given = row.example()
    once = ws.materialize(row.result)
    twice = ws.materialize(row.transform()(once, *trees[1:], **given))
    close(twice, weights(once), 1e-6)


@pytest.mark.parametrize("row", of("nearest"), ids=str)
def test_the_error_of_rounding_is_at_most_half_a_step(row: Row) -> None:
    trees, _ = row.example()
    before, after = weights(trees[0]), weights(row.result)
    for path, leaf in as_params(row.result).leaves.items():
        if is_weight(leaf):
            step = leaf.scale.max()
            assert np.max(np.abs(before[show(path)] - after[show(path)])) <= 0.5 * float(step) * (1 + 1e-6)


@pytest.mark.parametrize("row", of("reparam"), ids=str)
def test_a_reparameterization_stands_for_the_weight_it_was_made_from(row: Row) -> None:
    trees, _ = row.example()
    close(row.result, weights(trees[0]), 1e-6)


@pytest.mark.parametrize("row", [r for r in ROWS if r.equal is not None], ids=str)
def test_a_merge_of_equal_trees_is_that_tree(row: Row) -> None:
    trees, given = row.example()
    same = tuple(trees[0] for _ in trees)
    close(row.transform(**row.equal)(*same, **given), weights(trees[0]), 2e-6)


@pytest.mark.parametrize("row", of("symmetric"), ids=str)
def test_the_order_of_models_changes_nothing(row: Row) -> None:
    """Reversing the models and their weights together."""
    trees, given = row.example()
    turned = {k: v[::-1] for k, v in row.settings.items() if k == "weights" and v is not None}
    sides = {k: v[::-1] if isinstance(v, tuple) else v for k, v in given.items()}
    close(row.transform(**turned)(*trees[::-1], **sides), weights(row.result), 2e-6)


def test_families_are_known() -> None:
    known = {"pruner", "quantizer", "nearest", "reparam", "symmetric"}
    assert all(set(r.families) <= known for r in ROWS)
    assert jax.device_count() == 8  # the sharding laws mean something
