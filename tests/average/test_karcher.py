"""Deleted, the Karcher mean of fine-tunes, which are nearly parallel, could be that of some of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wspace.average import karcher


def slow(models: list[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """In float64, with angles by the arctangent of a vector's parts across and along the mean."""
    norms = [np.linalg.norm(x) for x in models]
    units = [x / n for x, n in zip(models, norms, strict=True)]
    u = sum(w * v for w, v in zip(weights, units, strict=True))
    for _ in range(50):
        u = u / np.linalg.norm(u)
        across = [v - np.sum(u * v) * u for v in units]
        angles = [np.arctan2(np.linalg.norm(a), np.sum(u * v)) for a, v in zip(across, units, strict=True)]
        u = u + sum(w * t / np.linalg.norm(a) * a for w, t, a in zip(weights, angles, across, strict=True))
    return (weights @ norms) * u / np.linalg.norm(u)


@pytest.mark.parametrize("apart", [1.0, 1e-2, 1e-3, 3e-4, 2e-4, 1e-4])
def test_fine_tunes_all_count_however_near_they_are(apart: float) -> None:
    """A cosine in float32 can't tell angles below 3e-4 from zero: leaving out a model would cost a part of `apart`."""
    weights = np.array([1.0, 0.5, 0.2])
    for seed in range(6):
        rng = np.random.default_rng(seed)
        base = rng.standard_normal((48, 32))
        models = [(base + apart * rng.standard_normal(base.shape)).astype(np.float32) for _ in range(3)]
        got = np.asarray(karcher(tuple(weights), 60, 1e-6)(*[{"w": jnp.asarray(x)} for x in models])["w"])
        want = slow([x.astype(np.float64) for x in models], weights / weights.sum())
        assert np.abs(got - want).max() < 2e-6 * np.abs(want).max()


@pytest.mark.parametrize("b", [[1.0, 2.0], [-1.0, -2.0], [2.0, 4.0], [0.0, 0.0]])
def test_gradients_are_finite_where_directions_are_the_same_or_opposite(b: list[float]) -> None:
    def total(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.sum(karcher()({"w": a}, {"w": b})["w"])

    for slope in jax.grad(total, argnums=(0, 1))(jnp.array([1.0, 2.0]), jnp.array(b)):
        assert np.isfinite(slope).all()
