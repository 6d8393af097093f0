"""Deleted, a mix of kernels could miss its vertices, train its mix, or not trade one loss for the other."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wspace as ws
from tests.rows import like, tree
from wspace.core.errors import SelectionError, ShapeError
from wspace.reparam import multi_loss, tunable, tune

RNG = np.random.default_rng(0)
A = tree(RNG)
B, C = like(A, RNG), like(A, RNG)


def test_a_vertex_is_the_kernel_to_the_last_bit_and_only_kernels_train() -> None:
    p = tunable()(A, B, C)
    for i, want in enumerate((A, B, C)):
        got = ws.materialize(tune(p, np.eye(3)[i]))
        jax.tree.map(np.testing.assert_array_equal, got, want)
    train, _ = ws.split(p)
    assert len(jax.tree.leaves(train)) == 3 and {x.shape[0] for x in jax.tree.leaves(train)} == {3}
    with pytest.raises(ShapeError, match="3 kernels"):
        tune(p, (1.0, 0.0))
    with pytest.raises(SelectionError, match="no Tunable"):
        tune(A, (1.0,))


def test_trained_on_two_targets_each_loss_falls_towards_its_vertex() -> None:
    x = jnp.asarray(RNG.standard_normal((64, 5)), jnp.float32)
    targets = [x @ jnp.asarray(RNG.standard_normal((5, 2)), jnp.float32) for _ in range(2)]
    start = {"w": jnp.zeros((5, 2))}

    def error(params: Any, y: jax.Array) -> jax.Array:
        return jnp.mean((x @ params["w"] - y) ** 2)

    even = jnp.array([0.5, 0.5])
    loss = multi_loss([lambda p, ys: error(p, ys[0]), lambda p, ys: error(p, ys[1])])

    def step(kernels: Any, key: jax.Array) -> Any:
        return kernels - 0.3 * jax.grad(lambda k: loss({"w": ws.reparam.Tunable(k, even)}, targets, key))(kernels), None

    keys = jax.random.split(jax.random.key(0), 300)
    kernels, _ = jax.lax.scan(step, tunable()(start, start)["w"].kernels, keys)
    models = [ws.materialize(tune({"w": ws.reparam.Tunable(kernels, even)}, (1 - t, t))) for t in np.linspace(0, 1, 6)]
    curve = np.array([[error(model, y) for y in targets] for model in models])
    assert (np.diff(curve[:, 0]) > 0).all() and (np.diff(curve[:, 1]) < 0).all()


def test_one_draw_weighs_kernels_and_losses() -> None:
    """With kernels 1 and 3 and losses w and w^2 the loss is l w + (1 - l) w^2 at w = 3 - 2 l."""
    p = tunable()({"w": jnp.array(1.0)}, {"w": jnp.array(3.0)})
    loss = multi_loss([lambda p, _: p["w"], lambda p, _: p["w"] ** 2])
    for share in (0.0, 0.3, 1.0):
        w = 3 - 2 * share
        got = loss(p, None, jax.random.key(0), mix=(share, 1 - share))
        np.testing.assert_allclose(got, share * w + (1 - share) * w**2, rtol=1e-6)
    drawn = jax.vmap(lambda key: loss(p, None, key))(jax.random.split(jax.random.key(1), 4000))
    # l is uniform on 0..1: the mean of l (3 - 2 l) + (1 - l) (3 - 2 l)^2
    np.testing.assert_allclose(jnp.mean(drawn), 3 / 2 - 2 / 3 + 9 / 2 - 12 / 6 + 4 / 12, rtol=0.05)
    with pytest.raises(ShapeError, match="2 losses"):
        loss(p, None, jax.random.key(0), mix=(1.0,))
    with pytest.raises(ShapeError, match="no loss"):
        multi_loss([])
