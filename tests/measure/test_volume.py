"""Deleted, a basin's volume could miss the constant of the ball, leave the basin, or count leaves that do not vary."""

from __future__ import annotations

from math import gamma, pi
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wspace.core.errors import ShapeError
from wspace.measure import local_volume

KEY = jax.random.key(0)


def test_the_volume_of_an_ellipsoid_is_the_textbooks() -> None:
    """L = sum h x^2 / 2 <= e is an ellipsoid with half-axes sqrt(2 e / h)."""
    h = {"a": jnp.array([1.0, 4.0]), "b": jnp.array([[0.5]])}
    center = {"a": jnp.array([1.0, -2.0]), "b": jnp.array([[3.0]]), "step": jnp.int32(4)}

    def loss(p: Any) -> jax.Array:
        return 7.0 + sum(jnp.sum(h[k] * (p[k] - center[k]) ** 2) / 2 for k in h)

    found = local_volume(loss, center, 0.3, KEY, directions=3000)
    axes = np.sqrt(2 * 0.3 / np.array([1.0, 4.0, 0.5]))
    np.testing.assert_allclose(np.exp(found.log), pi**1.5 / gamma(2.5) * axes.prod(), rtol=0.04)
    assert found.radii.min() >= axes.min() * (1 - 1e-5) and found.radii.max() <= axes.max() * (1 + 1e-5)


@pytest.mark.parametrize("n", [1, 10, 1000])
def test_a_ball_has_one_radius_in_any_dimension(n: int) -> None:
    found = local_volume(lambda p: jnp.sum(p["w"] ** 2), {"w": jnp.zeros(n)}, 0.04, KEY, directions=3)
    np.testing.assert_allclose(found.radii, 0.2, rtol=1e-5)
    want = jax.scipy.special.gammaln(n / 2 + 1)
    np.testing.assert_allclose(found.log, n / 2 * np.log(pi) - want + n * np.log(0.2), rtol=1e-4)


def test_a_ray_ends_where_it_first_leaves_and_at_the_limit() -> None:
    """Low again from 1 on, behind a wall at 0.5 .. 1: what is behind can't be seen."""

    def walled(p: Any) -> jax.Array:
        r = jnp.abs(p["x"])
        return jnp.where((r > 0.5) & (r < 1.2), 1.0, 0.0)

    found = local_volume(walled, {"x": jnp.zeros(())}, 0.1, KEY, directions=4, limit=8.0)
    np.testing.assert_allclose(found.radii, 0.5, rtol=1e-5)
    endless = local_volume(lambda p: 0 * p["x"], {"x": jnp.zeros(())}, 0.1, KEY, limit=8.0)
    np.testing.assert_array_equal(endless.radii, 8.0)
    with pytest.raises(ShapeError, match="a loss is one number"):
        local_volume(lambda p: p["x"], {"x": jnp.zeros(2)}, 0.1, KEY)
    with pytest.raises(ShapeError, match="0 weights"):
        local_volume(lambda p: jnp.zeros(()), {"x": jnp.int32(1)}, 0.1, KEY)
