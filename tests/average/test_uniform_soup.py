"""Deleted, a soup could lose bits, divide by zero without a word, or stop being better than a mean of strangers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.average import trained
from wspace.average import uniform_soup
from wspace.core.errors import ShapeError, WspaceError

A, B, C = ({"w": w} for w in np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32))


def test_one_tree_and_a_tree_with_all_the_weight_are_themselves() -> None:
    np.testing.assert_array_equal(uniform_soup()(A)["w"], A["w"])
    np.testing.assert_array_equal(uniform_soup([0.3])(A)["w"], A["w"])
    np.testing.assert_array_equal(uniform_soup([0.0, 7.0, 0.0])(A, B, C)["w"], B["w"])


def test_bfloat16_models_are_summed_in_float32() -> None:
    """Summed in bfloat16, sixteen models of 257/256 each would lose the last bit of every one."""
    models = [{"w": jnp.full(4, 1 + k / 128, jnp.bfloat16)} for k in range(16)]
    got = uniform_soup()(*models)["w"]
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got, jnp.full(4, np.mean([float(m["w"][0]) for m in models])).astype(jnp.bfloat16))


@pytest.mark.parametrize("weights", [[1.0, -1.0, 0.0], [0.0, 0.0, 0.0], np.array([0.1, 0.2, -0.3], np.float32)])
def test_weights_that_sum_to_zero_are_refused(weights: list[float]) -> None:
    with pytest.raises(WspaceError, match="sum to zero"):
        uniform_soup(weights)


def test_another_number_of_weights_than_of_models_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"3 trees need weights of shape \(3,\), but got \(2,\)"):
        uniform_soup([1.0, 2.0])(A, B, C)


def test_weights_can_be_traced_mapped_and_differentiated() -> None:
    mix = lambda w: uniform_soup(w)(A, B, C)["w"]  # noqa: E731
    grid = jnp.array([[1.0, 0.0, 0.0], [1.0, 1.0, 2.0]])
    mapped = jax.jit(jax.vmap(mix))(grid)
    np.testing.assert_allclose(mapped[1], (A["w"] + B["w"] + 2 * C["w"]) / 4, rtol=1e-6, atol=1e-7)
    slope = jax.jacfwd(mix)(grid[1])[:, 2]
    np.testing.assert_allclose(slope, (C["w"] - mapped[1]) / 4, rtol=1e-5, atol=1e-7)


def test_diwa_fine_tunes_of_one_base_average_well_and_strangers_do_not() -> None:
    """DiWA's own check, on digits. Measured: soup 0.972 (its members 0.958 to 0.972), strangers 0.511 (0.953 up)."""
    children, strangers = ([make(seed) for seed in range(3)] for make in (trained.child, trained.base))
    singles = [trained.accuracy(p) for p in children]
    assert trained.accuracy(uniform_soup()(*children)) >= np.mean(singles) - 0.005
    assert min(map(trained.accuracy, strangers)) > 0.93
    assert trained.accuracy(uniform_soup()(*strangers)) < 0.7
