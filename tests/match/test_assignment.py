"""If this were deleted, a NaN in a leaf could become a silent wrong matching, and ties another answer each run."""

from __future__ import annotations

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from wspace.core.errors import NonFinite, ShapeError
from wspace.match import solve, solve_in_jit


def brute(gain: np.ndarray) -> float:
    """The largest sum over all injective maps from rows to columns."""
    n, m = gain.shape
    return max(sum(gain[i, p[i]] for i in range(n)) for p in itertools.permutations(range(m), n))


@pytest.mark.parametrize("shape", [(5, 5), (3, 6), (1, 1), (1, 4)])
def test_equals_the_best_of_all(shape: tuple[int, int]) -> None:
    gain = np.random.default_rng(0).standard_normal(shape)
    columns = solve(gain)
    assert len(set(columns.tolist())) == shape[0] and columns.dtype == np.int32
    assert gain[np.arange(shape[0]), columns].sum() == pytest.approx(brute(gain), rel=1e-12)


def test_more_rows_than_columns_leaves_rows_out() -> None:
    gain = np.random.default_rng(1).standard_normal((5, 3))
    columns = solve(gain)
    got = columns >= 0
    assert sorted(columns[got].tolist()) == [0, 1, 2] and (columns[~got] == -1).all()
    assert gain[got, columns[got]].sum() == pytest.approx(brute(gain.T), rel=1e-12)


def test_leading_axes_are_separate_problems() -> None:
    gain = np.random.default_rng(2).standard_normal((2, 3, 4, 4))
    together = solve(gain)
    for i, j in np.ndindex(2, 3):
        np.testing.assert_array_equal(together[i, j], solve(gain[i, j]))


def test_trivial_sizes() -> None:
    assert solve(np.zeros((0, 0))).shape == (0,)
    assert solve(np.full((1, 1), -3.0)).tolist() == [0]
    for n in (0, 1):
        columns, finite = solve_in_jit(jnp.zeros((n, n)))
        assert columns.tolist() == list(range(n)) and bool(finite)


def test_ties_are_broken_alike() -> None:
    gain = np.random.default_rng(3).integers(1, 3, (40, 40)).astype(np.float32)
    first = solve(gain)
    for _ in range(3):
        np.testing.assert_array_equal(solve(gain.copy()), first)
    assert solve(np.ones((6, 6))).tolist() == list(range(6))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_gains_are_named(bad: float) -> None:
    gain = np.zeros((3, 3))
    gain[1, 2] = bad
    with pytest.raises(NonFinite, match=r"'layers/0/mlp'.*1 of 9 gains"):
        solve(gain, name="layers/0/mlp")
    columns, finite = solve_in_jit(jnp.asarray(gain, jnp.float32))
    assert not bool(finite) and columns.tolist() == [0, 1, 2]


def test_vector_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"shape \(3,\)"):
        solve(np.zeros(3))


def test_in_jit_equals_the_best_of_all() -> None:
    gain = np.random.default_rng(4).standard_normal((6, 6)).astype(np.float32)
    columns, finite = solve_in_jit(jnp.asarray(gain))
    assert bool(finite) and sorted(columns.tolist()) == list(range(6))
    assert gain[np.arange(6), np.asarray(columns)].sum() == pytest.approx(brute(gain), rel=1e-6)
