"""Deleted, the sparsity schedule could differ from the paper's curve, or not trace."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from wspace.optim import polynomial_sparsity


def test_is_the_papers_curve() -> None:
    """s_t = s_f + (s_i - s_f) (1 - (t - t0) / (n dt))^3 for t in {t0, t0 + dt, ..., t0 + n dt}, constant outside."""
    t0, n, dt, first, last = 100, 7, 50, 0.1, 0.9
    s = polynomial_sparsity(last, begin=t0, end=t0 + n * dt, initial=first)
    for k in range(n + 1):
        np.testing.assert_allclose(s(t0 + k * dt), last + (first - last) * (1 - k / n) ** 3, rtol=1e-6)
    assert s(0) == s(t0) == np.float32(first) and s(10**6) == s(t0 + n * dt) == np.float32(last)


def test_equals_optax_polynomial_schedule() -> None:
    ours = polynomial_sparsity(0.75, begin=10, end=60, initial=0.25, power=2)
    theirs = optax.polynomial_schedule(0.25, 0.75, power=2, transition_steps=50, transition_begin=10)
    with jax.numpy_dtype_promotion("standard"):
        want = [float(theirs(t)) for t in range(0, 70, 3)]
    np.testing.assert_allclose([ours(t) for t in range(0, 70, 3)], want, rtol=1e-6)


def test_steps_and_targets_may_be_traced() -> None:
    got = jax.jit(lambda f, t: polynomial_sparsity(f, 0, 4)(t))(jnp.float32(0.8), jnp.int32(2))
    np.testing.assert_allclose(got, 0.8 * (1 - 0.5**3), rtol=1e-6)
    slope = jax.grad(lambda f: polynomial_sparsity(f, 0, 4)(2))(jnp.float32(0.8))
    np.testing.assert_allclose(slope, 1 - 0.5**3, rtol=1e-6)
