"""Deleted, SGLD could sample another distribution, and a multiplier could push its constraint the wrong way."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from wspace.core.errors import WspaceError
from wspace.optim import dual_variable, sgld


def test_samples_of_a_gaussian_have_its_mean_and_variance() -> None:
    """The paper's own check. With U = (x - m)^2 / 2v a step of eta gives variance v T / (1 - eta / 4v), exactly."""
    m, v, eta, temperature = jnp.array([1.0, -2.0]), jnp.array([0.5, 2.0]), 0.2, 1.5
    tx = sgld(eta, temperature, key=jax.random.key(0))

    def step(carry: Any, _: Any) -> Any:
        x, state = carry
        updates, state = tx.update({"x": (x["x"] - m[:, None]) / v[:, None]}, state, x)
        x = optax.apply_updates(x, updates)
        return (x, state), x["x"]

    start = {"x": jnp.zeros((2, 200))}
    _, path = jax.jit(lambda c: jax.lax.scan(step, c, None, 600))((start, tx.init(start)))
    samples = np.asarray(path[150:]).transpose(1, 0, 2).reshape(2, -1)
    want = np.asarray(v) * temperature / (1 - eta / (4 * np.asarray(v)))
    np.testing.assert_allclose(samples.mean(1), m, atol=0.05)
    np.testing.assert_allclose(samples.var(1), want, rtol=0.04)


def test_a_schedule_gives_each_step_its_size_and_leaves_their_own_noise() -> None:
    tx = sgld(lambda step: 4.0 * (step + 1).astype(jnp.float32), 0.0, key=jax.random.key(0))
    params = {"w": jnp.ones(2), "n": jnp.int32(3)}
    grads = {"w": jnp.ones(2), "n": jnp.int32(0)}
    state = tx.init(params)
    for k in (1, 2):
        updates, state = tx.update(grads, state, params)
        np.testing.assert_array_equal(updates["w"], [-2.0 * k] * 2)
        assert updates["n"] == 0
    noisy, zero = sgld(1.0, key=jax.random.key(0)), {"a": jnp.zeros(4), "b": jnp.zeros(4)}
    first, state = noisy.update(zero, noisy.init(zero), zero)
    second, _ = noisy.update(zero, state, zero)
    alone, _ = noisy.update({"b": zero["b"]}, noisy.init(zero), {"b": zero["b"]})
    assert (first["a"] != first["b"]).all() and (first["a"] != second["a"]).all()
    np.testing.assert_array_equal(first["b"], alone["b"])


def test_a_multiplier_drives_a_norm_to_its_budget() -> None:
    """min |w - a|^2 under |w|_1 <= 2, by proximal steps: at rest a soft threshold at half the multiplier, 2."""
    a = jnp.array([3.0, -1.0, 0.5])
    dual = dual_variable(2.0, optax.sgd(0.05))

    def step(carry: Any, _: Any) -> Any:
        w, state = carry
        w = w - 0.1 * (w - a)
        w = jnp.sign(w) * jnp.maximum(jnp.abs(w) - 0.05 * state.value, 0)
        return (w, dual.update(jnp.sum(jnp.abs(w)), state)[1]), jnp.sum(jnp.abs(w))

    (w, state), norms = jax.lax.scan(step, (a, dual.init(0.5)), None, 1500)
    assert abs(float(norms[-1]) - 2) < 1e-3
    np.testing.assert_allclose(state.value, 2.0, rtol=1e-3)
    np.testing.assert_allclose(w, [2.0, 0.0, 0.0], atol=1e-3)


def test_a_constraint_that_is_kept_costs_nothing_and_nothing_flows_back() -> None:
    dual = dual_variable(1.0, optax.sgd(1.0))
    state = dual.init(0.5)
    for _ in range(60):
        value, state = dual.update(0.2, state)
    assert value < 0.03
    assert jax.grad(lambda c: dual.update(c, dual.init(1.0))[0])(3.0) == 0
    with pytest.raises(WspaceError, match="begins above 0"):
        dual.init(0.0)
