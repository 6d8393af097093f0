"""Deleted, a curve could miss its ends, move them, or not find the way around a barrier."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.average import trained
from tests.average.trained import MODEL, base
from tests.rows import like, tree
from wspace.core.errors import ShapeError
from wspace.data import tasks
from wspace.interpolate import bezier, connect, curve, lerp, polygon, segment
from wspace.measure import along, barrier

RNG = np.random.default_rng(0)
A = tree(RNG)
B, C, D = like(A, RNG), like(A, RNG), like(A, RNG)


def same(a: Any, b: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("by", [bezier, polygon])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_ends_are_the_models_to_the_last_bit(by: Any, dtype: Any) -> None:
    trees = [jax.tree.map(lambda x: x.astype(dtype) if x.dtype == jnp.float32 else x, p) for p in (A, C, D, B)]
    for points in (trees, trees[::3]):
        path = curve(points, by)
        same(path(0.0), points[0])
        same(path(1.0), points[-1])


def test_a_polygon_passes_through_its_points_and_a_bezier_curve_leaves_towards_them() -> None:
    path = curve([A, C, D, B], polygon)
    same(path(1 / 3), C)
    for got, want in zip(jax.tree.leaves(path(-0.1)), jax.tree.leaves(lerp(-0.3)(A, C)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    _, slope = jax.jvp(lambda t: curve([A, C, B])(t)["dense"]["kernel"], (0.0,), (1.0,))
    np.testing.assert_allclose(slope, 2 * (C["dense"]["kernel"] - A["dense"]["kernel"]), rtol=1e-5, atol=1e-6)


def loss(params: Any, batch: Any) -> jax.Array:
    return tasks.loss(MODEL.apply, params, *batch)


def test_a_trained_curve_goes_around_the_barrier_of_two_independent_models() -> None:
    """The paper's finding, on digits: the loss on the line is high, along the curve about that of the ends."""
    a, b, whole = base(0), base(1), jax.jit(trained.loss)
    found = connect(loss, a, b, trained.batches(300, 128), optax.adam(3e-3))
    ts = np.linspace(0, 1, 9)
    straight, bent = (barrier(whole, path, ts) for path in (segment(a, b), found.path))
    assert straight.value > 0.5 and bent.value < 0.05
    same([found.path(0.0), found.path(1.0)], [a, b])
    np.testing.assert_allclose(along(found.path, whole, ts), bent.losses, rtol=1e-6)
    assert found.losses.shape == (300,) and len(found.bends) == 1


def test_misuse_is_named_and_other_leaves_stay() -> None:
    def square(params: Any, batch: Any) -> jax.Array:
        return jnp.sum(params["dense"]["kernel"] ** 2)

    found = connect(square, A, B, None, optax.sgd(0.1), steps=2, bends=2)
    assert len(found.bends) == 2 and found.bends[0]["step"] == 7 and found.bends[0]["unused"] is None
    np.testing.assert_allclose(found.bends[0]["layers"]["kernel"], lerp(1 / 3)(A, B)["layers"]["kernel"], rtol=1e-6)
    with pytest.raises(ShapeError, match="a curve has at least one"):
        connect(square, A, B, None, optax.sgd(0.1), steps=2, bends=0)
