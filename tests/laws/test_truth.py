"""Deleted, a method's formula could be wrong: each row's result is compared with a slow numpy truth in float64."""

from __future__ import annotations

import jax.numpy as jnp
import pytest

from tests.rows import ROWS, Row, close, expected


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_equals_the_slow_truth(row: Row) -> None:
    trees, given = row.example()
    close(row.result, expected(row, trees, given), row.tolerance)


@pytest.mark.parametrize("row", [r for r in ROWS if r.numeric], ids=str)
def test_equals_the_slow_truth_with_other_numbers(row: Row) -> None:
    trees, given = row.example(seed=1)
    got = row.transform(**row.numeric)(*trees, **given)
    close(got, expected(row, trees, given, **row.numeric), row.tolerance)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_bfloat16_is_within_its_bound(row: Row) -> None:
    trees, given = row.example(seed=2, dtype=jnp.bfloat16)
    close(row.transform()(*trees, **given), expected(row, trees, given), row.bf16)
