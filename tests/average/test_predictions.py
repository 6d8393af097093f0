"""Deleted, averages of predictions could be worse than their parts, and a front could hold points that are beaten."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import minimize

from wspace.average import (
    Front,
    bayes_mixture,
    choose_lambda,
    conformal_shift,
    conformalize,
    hypervolume,
    isotonic,
    optimal_ensemble_weights,
    pareto_mask,
    project_simplex,
    quantile_aggregate,
    soup_front,
)
from wspace.core.errors import NonFinite, ShapeError
from wspace.core.learn import descend
from wspace.objectives import pinball

RNG = np.random.default_rng(0)


def f32(x: Any) -> jax.Array:
    return jnp.asarray(x, jnp.float32)


@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_the_projection_is_nearest(n: int) -> None:
    """The optimality condition: on the support all are moved by the same amount, off it by no more."""
    for v in RNG.standard_normal((5, n)) * 2:
        w = np.asarray(project_simplex(f32(v)), np.float64)
        assert abs(w.sum() - 1) < 1e-5 and (w >= 0).all()
        moved = (v - w)[w > 1e-6]
        assert np.ptp(moved) < 1e-5 and (v[w <= 1e-6] <= moved.max() + 1e-5).all()


@pytest.mark.parametrize("weighted", [False, True])
def test_convex_weights_are_optimal_and_never_worse_than_a_vertex_or_the_center(weighted: bool) -> None:
    for _ in range(4):
        y = RNG.standard_normal(60)
        p = 0.6 * y[:, None] + RNG.standard_normal((60, 5)) * RNG.random(5) + RNG.standard_normal(5)
        c = RNG.random(60) if weighted else np.ones(60)
        w = np.asarray(optimal_ensemble_weights(f32(p), f32(y), f32(c)), np.float64)

        def error(w: np.ndarray, p: np.ndarray = p, y: np.ndarray = y, c: np.ndarray = c) -> float:
            return float(np.mean(c * (y - p @ w) ** 2))

        best = minimize(
            error,
            np.ones(5) / 5,
            bounds=[(0, 1)] * 5,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
            options={"ftol": 1e-14, "maxiter": 1000},
        )
        assert abs(w.sum() - 1) < 1e-5 and error(w) <= best.fun + 1e-6
        assert error(w) <= min(*(error(v) for v in np.eye(5)), error(np.ones(5) / 5)) + 1e-6
        gradient = 2 * p.T @ (c * (p @ w - y)) / 60
        assert gradient[w > 1e-4].max() <= gradient.min() + 1e-4  # KKT
    with pytest.raises(ShapeError, match="give"):
        optimal_ensemble_weights(f32(p), f32(y[1:]))


@pytest.mark.parametrize("apart", [0.1, 0.01, 0.001])
def test_models_that_err_alike_have_their_best_mean_too(apart: float) -> None:
    """Fine-tunes share most of their error. The duality gap bounds what is left to gain, by any convex weights."""
    y = RNG.standard_normal(1000)
    p = y[:, None] + 0.3 * RNG.standard_normal((1000, 1)) + apart * RNG.standard_normal((1000, 10)) * RNG.random(10)
    w = np.asarray(optimal_ensemble_weights(f32(p), f32(y)), np.float64)
    errors = p - y[:, None]
    gradient = 2 * errors.T @ (errors @ w) / len(y)
    assert gradient @ w - gradient.min() < 1e-7
    assert np.mean((errors @ w) ** 2) < min(np.mean(errors**2, axis=0)) + 1e-8


def test_targets_may_be_integers() -> None:
    """They decided the type of the weights of examples, which were zero then."""
    p, y, c = RNG.standard_normal((20, 3)), RNG.integers(0, 3, 20), RNG.random(20)
    want = optimal_ensemble_weights(f32(p), f32(y), f32(c))
    np.testing.assert_array_equal(optimal_ensemble_weights(f32(p), jnp.asarray(y), f32(c)), want)
    assert np.ptp(want) > 0.1


def test_inside_the_simplex_it_is_least_squares() -> None:
    p = RNG.standard_normal((50, 3))
    truth = np.array([0.2, 0.5, 0.3])
    np.testing.assert_allclose(optimal_ensemble_weights(f32(p), f32(p @ truth)), truth, atol=1e-5)


def test_the_mixture_is_within_log_k_of_the_best_and_its_steps_are_bayes() -> None:
    probs = RNG.dirichlet(np.ones(4), (30, 3))[:, :, 0]
    got = bayes_mixture(f32(np.log(probs)))
    weights, steps = np.ones(3) / 3, []
    for row in probs:
        steps.append(np.log(weights @ row))
        weights = weights * row / (weights @ row)
    np.testing.assert_allclose(got.log_prob, steps, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.exp(got.log_posterior), weights, rtol=1e-4)
    assert -np.sum(got.log_prob) <= np.min(-np.log(probs).sum(0)) + np.log(3) + 1e-4
    with pytest.raises(ShapeError, match="prior"):
        bayes_mixture(f32(np.log(probs)), jnp.zeros(2))


def test_quantiles() -> None:
    levels = f32([0.1, 0.5, 0.9])
    y, q = f32(RNG.standard_normal(300)), f32(RNG.standard_normal((300, 2, 3)))
    for logits in (RNG.standard_normal(2), RNG.standard_normal((2, 3)), RNG.standard_normal((300, 2, 3))):
        full = np.broadcast_to(logits[:, None] if logits.ndim == 1 else logits, q.shape)
        w = np.exp(full) / np.exp(full).sum(1, keepdims=True)
        raw = quantile_aggregate(q, f32(logits), increasing=False)
        np.testing.assert_allclose(raw, (w * np.asarray(q)).sum(1), rtol=1e-4, atol=1e-5)
        assert pinball(quantile_aggregate(q, f32(logits)), y, levels) <= pinball(raw, y, levels)
    np.testing.assert_allclose(quantile_aggregate(q[:, :1], jnp.zeros(1), increasing=False), q[:, 0], rtol=1e-6)
    with pytest.raises(ShapeError, match="logits"):
        quantile_aggregate(q, jnp.zeros(3))


def test_a_conformal_interval_covers() -> None:
    """Over many draws the coverage of a new point is at least nominal, and not by more than 1 / (n + 1)."""
    y = RNG.standard_normal((3000, 20))
    zero = jnp.zeros(19)
    shifts = np.asarray(jax.vmap(lambda y: conformal_shift(zero, zero, y, 0.8))(f32(y[:, :19])))
    assert 0.78 < np.mean(np.abs(y[:, 19]) <= shifts) < 0.87
    assert np.isinf(conformal_shift(zero[:3], zero[:3], zero[:3], 0.9))


def test_a_front_has_the_experts_at_its_ends_and_no_beaten_point() -> None:
    """Concave rewards: a soup lies above the chord in both, the linear mode connectivity that the method rests on."""
    a, b = ({"w": f32(RNG.standard_normal(4))} for _ in range(2))

    def rewards(p: Any) -> list[Any]:
        return [-jnp.sum((p["w"] - x["w"]) ** 2) for x in (a, b)]

    grid = [(1 - t, t) for t in (0.0, 0.25, 0.5, 0.75, 1.0)]
    front = soup_front([a, b], grid, rewards)
    np.testing.assert_allclose(front.points[[0, -1]], [rewards(a), rewards(b)], atol=1e-6)
    chord = np.array([[1 - t, t] for _, t in grid]) @ front.points[[0, -1]]
    assert (front.points[1:-1] > chord[1:-1]).all() and front.efficient.all()
    np.testing.assert_array_equal(choose_lambda(front, (0.5, 0.5)), (0.5, 0.5))
    np.testing.assert_array_equal(choose_lambda(front, (1.0, 0.0)), (1.0, 0.0))
    with pytest.raises(ShapeError, match=r"need \[n, 2\]"):
        soup_front([a, b], [(1, 0, 0)], rewards)
    with pytest.raises(ShapeError, match="one each"):
        choose_lambda(Front(*front), (1.0,))


def test_a_soup_without_a_reward_is_not_on_the_front_and_never_chosen() -> None:
    nan = float("nan")
    points = np.array([[nan, 9.0], [2.0, 2.0], [1.0, 3.0], [1.0, 1.0]])
    assert pareto_mask(points).tolist() == [False, True, True, False]
    front = Front(np.eye(4), points, pareto_mask(points))
    np.testing.assert_array_equal(choose_lambda(front, (0.2, 0.8)), np.eye(4)[2])
    with pytest.raises(NonFinite, match="none of 1 soups"):
        choose_lambda(Front(np.eye(1), points[:1], np.array([False])), (0.5, 0.5))


@pytest.mark.parametrize("rewards", [1, 2, 3])
def test_the_hypervolume_is_the_share_of_random_points_that_are_beaten(rewards: int) -> None:
    points, reference = RNG.random((6, rewards)), -0.2 * np.ones(rewards)
    draws = RNG.random((40000, rewards)) * 1.2 - 0.2
    share = np.mean([(points >= d).all(1).any() for d in draws]) * 1.2**rewards
    assert abs(hypervolume(points, reference) - share) < 0.02
    efficient = pareto_mask(points)
    assert abs(hypervolume(points[efficient], reference) - hypervolume(points, reference)) < 1e-12
    assert hypervolume(points, 2 * np.ones(rewards)) == 0


@pytest.mark.parametrize("n", [1, 2, 7, 30])
def test_isotonic_is_what_pooling_neighbors_gives(n: int) -> None:
    q = RNG.standard_normal((6, n)) + np.linspace(0, 2, n)
    for row, got in zip(q, np.asarray(isotonic(f32(q))), strict=True):
        blocks: list[list[float]] = []
        for x in row:
            blocks.append([x])
            while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
                blocks[-2:] = [blocks[-2] + blocks[-1]]
        want = [np.mean(b) for b in blocks for _ in b]
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_conformalized_quantiles_cover_and_the_median_stays() -> None:
    """Each interval of shifted quantiles has the coverage it claims, over many draws of held-out and new examples."""
    levels = (0.05, 0.2, 0.5, 0.8, 0.95)
    y = RNG.standard_normal((1500, 41))
    held, new = jnp.zeros((40, 5)), jnp.zeros((1, 5))
    got = np.asarray(jax.vmap(lambda y: conformalize(new, held, y, levels))(f32(y[:, :40])))[:, 0]
    for i, nominal in ((0, 0.9), (1, 0.6)):
        covered = np.mean((got[:, i] <= y[:, 40]) & (y[:, 40] <= got[:, 4 - i]))
        assert nominal - 0.03 < covered < nominal + 0.06
    np.testing.assert_array_equal(got[:, 2], 0)
    with pytest.raises(ShapeError, match="not ascending and symmetric"):
        conformalize(new, held, jnp.zeros(40), (0.1, 0.2, 0.5, 0.8, 0.95))
    with pytest.raises(ShapeError, match="for 5 levels"):
        conformalize(new, held, jnp.zeros(4), levels)


def test_weights_of_an_aggregate_can_be_learned() -> None:
    """Of three models, one is right about the low quantile, one about the high one: weights by level can take both."""
    y = RNG.standard_normal(400)
    levels, true = f32([0.1, 0.9]), np.array([-1.2816, 1.2816])
    q = true + np.array([[0.0, 1.5], [1.5, 0.0], [0.8, 0.8]])
    predictions = f32(np.broadcast_to(q, (400, 3, 2)))

    def loss(logits: Any, fixed: Any, batch: Any, key: Any) -> jax.Array:
        return pinball(quantile_aggregate(fixed, logits, increasing=False), f32(y), levels)

    singles = [float(pinball(predictions[:, j], f32(y), levels)) for j in range(3)]
    coarse, medium = (
        descend(loss, jnp.zeros(shape), predictions, None, optax.adam(0.1), steps=200) for shape in (3, (3, 2))
    )
    assert medium.losses[-1] < coarse.losses[-1] < min(singles)
    weights = jax.nn.softmax(medium.values, axis=0)
    assert weights[0, 0] > 0.5 and weights[1, 1] > 0.5
