"""Deleted, a segment could forget its side trees, or differ from the transform that it is made of."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import wspace as ws
from tests.rows import like, tree
from wspace.interpolate import lerp, segment, slerp

RNG = np.random.default_rng(0)
A = tree(RNG)
B, BASE = like(A, RNG), like(A, RNG)


def test_a_segment_is_its_transform_at_every_position() -> None:
    for by in (lerp, slerp):
        jax.tree.map(np.testing.assert_array_equal, segment(A, B, by)(0.3), by(0.3)(A, B))
    warp = segment(A, B, lambda t: ws.around_base(slerp(t)), base=BASE)
    jax.tree.map(np.testing.assert_array_equal, warp(0.3), ws.around_base(slerp(0.3))(A, B, base=BASE))


def test_a_position_can_be_optimized_through_the_path() -> None:
    """The point of the line that is nearest to the origin, by the closed form and by Newton's step from t = 0."""

    def loss(t: jax.Array) -> jax.Array:
        p = segment(A, B)(t)
        return sum(jnp.sum(x**2) for x in (p["dense"]["kernel"], p["dense"]["bias"], p["layers"]["kernel"]))

    a, d = (
        np.concatenate([np.ravel(f[k][n]) for k, n in (("dense", "kernel"), ("dense", "bias"), ("layers", "kernel"))])
        for f in (A, jax.tree.map(lambda x, y: y - x, A, B))
    )
    nearest = -np.dot(a, d) / np.dot(d, d)
    step = -jax.grad(loss)(jnp.zeros(())) / jax.grad(jax.grad(loss))(jnp.zeros(()))
    np.testing.assert_allclose(step, nearest, rtol=1e-5)
