"""Deleted, DAREx could divide by a q that is not the least error's, or not be DARE where it has to be."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.stats.grams import activations, gram
from wspace.core.errors import WspaceError
from wspace.merge import dare, darex, search_q
from wspace.merge.dare import drop_array
from wspace.merge.darex import analytic_q_array, least_error_q_array

RNG = np.random.default_rng(0)
DELTA, X = RNG.standard_normal((12, 5)), activations(RNG, 200, 12)
D, G = jnp.asarray(DELTA, jnp.float32), jnp.asarray(gram(X), jnp.float32)


def test_q_equal_to_density_is_dare() -> None:
    base, tuned, key = {"w": jnp.zeros((12, 5))}, {"w": D}, jax.random.key(3)
    got, want = (t(tuned, base=base, key=key)["w"] for t in (darex(0.3, q=0.3), dare(0.3)))
    np.testing.assert_allclose(got, want, rtol=1e-6)
    with pytest.raises(WspaceError, match="q is 0"):
        darex(0.3, q=(0.5, 0.0))


def test_the_closed_form_has_the_least_measured_error_and_the_error_of_its_formula() -> None:
    density, wanted = 0.2, X @ DELTA
    masks = np.asarray(jax.vmap(lambda k: drop_array(D, k, density, False))(jax.random.split(jax.random.key(0), 4000)))
    best = float(least_error_q_array(D, G, jnp.diagonal(G), density))
    v, m = np.sum(DELTA**2 * np.diag(gram(X))[:, None]), np.sum(wanted**2) / len(X)

    def error(q: float) -> float:
        return float(np.mean([np.sum((X @ (mask / q) - wanted) ** 2) for mask in masks[:600]])) / len(X) / m

    theory = (density / best - 1) ** 2 + density * (1 - density) / best**2 * v / m
    assert abs(error(best) - theory) < 0.05 * theory
    assert error(best) < min(error(0.9 * best), error(1.1 * best), error(density))


def test_the_analytic_q_is_that_of_the_grid() -> None:
    density, eta, confidence, mean = 0.1, 0.7, 0.95, X.mean(0)
    p = 1 - density
    grid = np.arange(density, 0.9995, 0.001)
    phi = (1 - 2 * p) / np.log((1 - p) / p)
    each = []
    for o in range(DELTA.shape[1]):
        c = DELTA[:, o] * mean
        bound = eta * (1 - density / grid) * c.sum() + eta**2 * phi * np.sum(c**2) / (4 * grid**2)
        each.append(grid[np.abs(bound + np.log(2 / (1 - confidence))).argmin()])
    got = analytic_q_array(D, jnp.asarray(mean, jnp.float32), density, eta, confidence)
    assert abs(float(got) - np.mean(each)) < 1e-3
    assert np.isfinite(analytic_q_array(D, jnp.asarray(mean, jnp.float32), 0.5, eta))


def test_the_searched_q_changes_the_answers_least() -> None:
    """Against the change computed in NumPy for a thousand q; DARE and plain dropping are among those that lose."""
    density, key = 0.3, jax.random.key(5)
    x, delta = abs(X), abs(DELTA)  # of one sign: with sums that cancel out, dropping alone is best
    base, tuned = {"w": jnp.zeros((12, 5)), "b": jnp.zeros(5)}, {"w": abs(D), "b": jnp.ones(5)}
    seen = []

    def change(params: dict[str, jax.Array]) -> jax.Array:
        seen.append(params)
        assert (params["b"] == 1).all()  # no matrix: the fine-tune's
        return jnp.mean(jnp.abs(jnp.asarray(x, jnp.float32) @ (params["w"] - tuned["w"])))

    found = search_q(change, base, tuned, density, key=key, points=12, rounds=3)
    kept = np.asarray(seen[11]["w"], np.float64)  # at q = 1, the end of the first grid, it is only dropped
    grid = np.linspace(density, 1, 1001)
    exact = np.array([np.abs(x @ (kept / q - delta)).mean() for q in grid])
    assert abs(found.q - grid[exact.argmin()]) < 0.01
    np.testing.assert_allclose(found.changes.min(), exact.min(), rtol=1e-3)
    assert found.changes[0] > found.changes.min() < found.changes[-1] and found.qs[[0, -1]].tolist() == [density, 1]
    np.testing.assert_allclose(found.params["w"], kept / found.q, rtol=1e-5)
    with pytest.raises(WspaceError, match="density is 0"):
        search_q(change, base, tuned, 0, key=key)
