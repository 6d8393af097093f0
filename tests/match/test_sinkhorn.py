"""If this were deleted, the implicit gradient could be wrong by any factor and training through it would still run."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wspace as ws
from tests.match.nets import loss, pair
from wspace.data import digits, tasks
from wspace.match import sinkhorn


def slow(gain: np.ndarray, temperature: float) -> np.ndarray:
    """The scaling algorithm on exp(gain / temperature), float64."""
    p = np.exp(gain / temperature)
    for _ in range(5000):
        p = p / p.sum(0, keepdims=True)
        p = p / p.sum(1, keepdims=True)
    return p


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_equals_plain_scaling(temperature: float) -> None:
    gain = np.random.default_rng(0).standard_normal((6, 6))
    p = sinkhorn(jnp.asarray(gain, jnp.float32), temperature, 500)
    np.testing.assert_allclose(p, slow(gain, temperature), atol=2e-6)
    np.testing.assert_allclose(p.sum(0), 1, atol=1e-5)


def test_gradient_equals_finite_differences() -> None:
    rng = np.random.default_rng(1)
    gain, bar, step = rng.standard_normal((5, 5)), rng.standard_normal((5, 5)), 1e-5

    def value(x: np.ndarray, temperature: float = 0.7) -> float:
        return float((slow(x, temperature) * bar).sum())

    want = np.zeros((5, 5))
    for i, j in np.ndindex(5, 5):
        e = np.zeros((5, 5))
        e[i, j] = step
        want[i, j] = (value(gain + e) - value(gain - e)) / (2 * step)
    by_heat = (value(gain, 0.7 + step) - value(gain, 0.7 - step)) / (2 * step)
    objective = lambda x, t: jnp.sum(sinkhorn(x, t, 500) * jnp.asarray(bar, jnp.float32))  # noqa: E731
    got, heat = jax.grad(objective, argnums=(0, 1))(jnp.asarray(gain, jnp.float32), jnp.float32(0.7))
    np.testing.assert_allclose(got, want, atol=2e-5)
    assert float(heat) == pytest.approx(by_heat, abs=1e-4)


def test_cold_is_the_best_permutation() -> None:
    gain = np.random.default_rng(2).standard_normal((7, 7)).astype(np.float32)
    p = sinkhorn(jnp.asarray(gain), 0.02, 2000)
    np.testing.assert_array_equal(np.argmax(p, 1), ws.match.solve(gain))


def test_planted_is_found_by_gradients() -> None:
    _, (net, _), axes = pair(32)
    g = ws.match.random_element(axes, key=jax.random.key(3))
    found = ws.match.sinkhorn_matching(
        net, ws.match.act(net, axes, ws.match.inverse(axes, g)), axes, key=jax.random.key(0), steps=100
    )
    assert all((found[n] == g[n]).all() for n in g)


def test_training_the_midpoint_beats_no_matching() -> None:
    model, (a, b), axes = pair(32)
    images, labels = digits.load("train")
    found = ws.match.sinkhorn_matching(
        a, b, axes, key=jax.random.key(0), loss=lambda p: tasks.loss(model.apply, p, images, labels), steps=100
    )
    after = loss(model, ws.match.midpoint(a, ws.match.act(b, axes, found)))
    assert after < 0.5 * loss(model, ws.match.midpoint(a, b))
