"""Deleted, a loss surface could be drawn over a plane that does not hold its three models, or skewed."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wspace as ws
from wspace.core.errors import ShapeError, TreeMismatch


def trees(n: int, dtype: Any = jnp.float32) -> list[Any]:
    rng = np.random.default_rng(0)
    return [
        {
            "w": jnp.asarray(rng.standard_normal((5, 4)), dtype),
            "b": jnp.asarray(rng.standard_normal(3), dtype),
            "n": jnp.int32(7),
        }
        for _ in range(n)
    ]


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.asarray(tree[k], np.float64).ravel() for k in ("w", "b")])


def test_corners_are_the_models_and_distances_are_those_of_weights() -> None:
    models = trees(3)
    plane = ws.measure.plane(*models)
    for tree, (x, y) in zip(models, plane.corners, strict=True):
        np.testing.assert_allclose(flat(plane(x, y)), flat(tree), atol=2e-6)
    p, q = (0.3, -1.2), (2.5, 0.7)
    apart = np.linalg.norm(flat(plane(*p)) - flat(plane(*q)))
    assert apart == pytest.approx(np.hypot(p[0] - q[0], p[1] - q[1]), rel=1e-5)
    assert plane(0.5, 0.5)["n"] == 7


def test_the_nearest_point_is_the_projection() -> None:
    *models, other = trees(4)
    plane = ws.measure.plane(*models)
    x, y, away = plane.at(other)
    a, b, c = map(flat, models)
    basis = np.stack([b - a, c - a], 1)
    shares, *_ = np.linalg.lstsq(basis, flat(other) - a, rcond=None)
    nearest = a + basis @ shares
    np.testing.assert_allclose(flat(plane(x, y)), nearest, atol=1e-5)
    assert away == pytest.approx(np.linalg.norm(flat(other) - nearest), rel=1e-5)


def test_the_surface_is_the_loss_at_each_point() -> None:
    plane = ws.measure.plane(*trees(3))

    def loss(tree: Any) -> jax.Array:
        return jnp.sum(jnp.sin(tree["w"])) + jnp.sum(tree["b"])

    found = ws.measure.surface(loss, plane, steps=4)
    assert found.values.shape == (len(found.ys), len(found.xs))
    for i, y in enumerate(found.ys):
        for k, x in enumerate(found.xs):
            point = plane(x, y)
            expected = np.sin(np.asarray(point["w"], np.float64)).sum() + np.asarray(point["b"], np.float64).sum()
            assert found.values[i, k] == pytest.approx(expected, abs=1e-4)


def test_dtypes_stay_and_misuse_is_named() -> None:
    a, b, c = trees(3, jnp.bfloat16)
    assert ws.measure.plane(a, b, c)(0.1, 0.2)["w"].dtype == jnp.bfloat16
    middle = jax.tree.map(lambda x, y: ((x + y) / 2).astype(x.dtype), *trees(2))
    with pytest.raises(ShapeError, match="one line"):
        ws.measure.plane(*trees(2), middle)
    with pytest.raises(TreeMismatch):
        ws.measure.plane(a, b, {**c, "w": jnp.ones((2, 2))})
    with pytest.raises(ShapeError, match="steps"):
        ws.measure.surface(lambda p: 0.0, ws.measure.plane(a, b, c), steps=1)
