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
from wspace.reparam import tunable, tune

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

    def losses(params: Any) -> jax.Array:
        out = x @ ws.materialize(params)["w"]
        return jnp.stack([jnp.mean((out - y) ** 2) for y in targets])

    def step(kernels: Any, t: jax.Array) -> Any:
        mix = jnp.stack([1 - t, t])
        return kernels - 0.3 * jax.grad(lambda k: mix @ losses({"w": ws.reparam.Tunable(k, mix)}))(kernels), None

    drawn = jax.random.uniform(jax.random.key(0), (300,))
    kernels, _ = jax.lax.scan(step, tunable()(start, start)["w"].kernels, drawn)
    p = {"w": ws.reparam.Tunable(kernels, jnp.array([0.5, 0.5]))}
    curve = np.array([losses(tune(p, (1 - t, t))) for t in np.linspace(0, 1, 6)])
    assert (np.diff(curve[:, 0]) > 0).all() and (np.diff(curve[:, 1]) < 0).all()
