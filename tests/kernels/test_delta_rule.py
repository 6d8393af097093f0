"""Deleted, chunks could lose what the recurrence keeps: exact recall, keys that are all alike, rotations."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from wspace_kernels.dispatch import target

from tests.kernels.truths import delta_rule as truth
from wspace.core.errors import ShapeError
from wspace.kernels import delta_product, delta_rule


def test_orthonormal_keys_recall_their_last_values() -> None:
    """The paper's reason for the rule: a key that comes again replaces its own value and nothing else."""
    k = jnp.concatenate([jnp.eye(16), jnp.eye(16)[3:4]])
    v = jax.random.normal(jax.random.key(0), (17, 8), jnp.float32)
    _, state = delta_rule(jnp.zeros_like(k), k, v, jnp.ones(17), chunk=8)
    np.testing.assert_array_equal(state, v[:16].at[3].set(v[16]))


def test_equal_keys_in_a_long_chunk() -> None:
    """The powers of tril(K K^T) then grow to 10^18; its inverse has entries of 0 and 1 alone."""
    k = jnp.full((1, 64, 4), 0.5)
    q, v = jax.random.normal(jax.random.key(1), (2, 1, 64, 4), jnp.float32)
    o, _ = delta_rule(q, k, v, jnp.ones((1, 64)))
    np.testing.assert_allclose(o[0], (q[0] @ k[0, 0])[:, None] * v[0], atol=1e-5)


def test_two_reflections_rotate() -> None:
    """DeltaProduct's gain: with beta = 2 two steps a token turn the state by twice the angle between their keys."""
    angles = jnp.array([0.0, 0.35])
    k = jnp.broadcast_to(jnp.stack([jnp.cos(angles), jnp.sin(angles)], -1), (5, 2, 2))
    start, turn = jnp.eye(2), np.array([[np.cos(0.7), -np.sin(0.7)], [np.sin(0.7), np.cos(0.7)]])
    _, state = delta_product(jnp.zeros((5, 2)), k, 0 * k, jnp.full((5, 2), 2.0), initial_state=start, chunk=4)
    np.testing.assert_allclose(state, np.linalg.matrix_power(turn, 5), atol=1e-6)


def test_chunks_of_one_are_the_recurrence() -> None:
    """With gates that all but empty the state between tokens."""
    q, k, v = jax.random.normal(jax.random.key(2), (3, 1, 20, 4), jnp.float32)
    beta, gate = jax.random.uniform(jax.random.key(3), (2, 1, 20), jnp.float32)
    wanted = truth.delta_rule(q, k / 2, v, beta, log_gate=-30 * gate)
    o, state = delta_rule(q, k / 2, v, beta, log_gate=-30 * gate, chunk=1)
    np.testing.assert_allclose(o, wanted[0], atol=1e-5)
    np.testing.assert_allclose(state, wanted[1], atol=1e-5)


def test_misuse_is_told_before_any_work() -> None:
    x, b = jnp.ones((1, 8, 4)), jnp.ones((1, 8))
    with pytest.raises(ShapeError, match=r"beta has shape \(8,\); wanted \(1, 8\)"):
        delta_rule(x, x, x, b[0])
    with pytest.raises(ShapeError, match="chunk=12 is no power of two"):
        delta_rule(x, x, x, b, chunk=12)
    with pytest.raises(ShapeError, match="do not fit"):
        delta_product(x, x, x, b)
    with target("gpu", interpret=True), pytest.raises(ShapeError, match="keys of a power of two from 16"):
        delta_rule(x, x, x, b, chunk=16, implementation="gpu")
