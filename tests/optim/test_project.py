"""Deleted, a projection could miss its set by more than rounding, act on the wrong step, or move leaves it keeps."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wspace as ws
from wspace.core.errors import SelectionError, ShapeError

RNG = np.random.default_rng(0)


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


def landed(t: ws.Transform, params: Any, grads: Any, **kwargs: Any) -> Any:
    tx = optax.chain(optax.sgd(0.1), ws.optim.project(t, **kwargs))
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    return optax.apply_updates(params, updates)


def test_misses_the_target_by_rounding_only() -> None:
    """|p + u - target| <= 2^-23 |p - target|, and exact within a factor 2 of each other and at 0."""
    grid = ws.leafwise("grid", lambda w, ctx: jnp.round(8 * w[0]) / 8)
    p, g = {"w": normal(200, 50)}, {"w": normal(200, 50)}
    target = np.round(8 * np.asarray(p["w"] - 0.1 * g["w"])) / 8
    got, w = np.asarray(landed(grid, p, g)["w"], np.float64), np.asarray(p["w"], np.float64)
    assert np.all(np.abs(got - target) <= 2.0**-23 * np.abs(w - target))
    near = (np.abs(target) >= np.abs(w) / 2) & (np.abs(target) <= 2 * np.abs(w)) & (target * w > 0)
    np.testing.assert_array_equal(got[near], target[near])
    np.testing.assert_array_equal(got == 0, target == 0)
    assert near.mean() > 0.5 and np.mean(target == 0) > 0.01


def test_a_pruner_lands_on_exact_zeros() -> None:
    got = landed(ws.prune.magnitude(0.6), {"w": normal(40, 10)}, {"w": normal(40, 10)})
    assert int((got["w"] == 0).sum()) == 240


def test_unit_norm_after_every_second_update() -> None:
    unit = ws.on("kernel$", ws.leafwise("unit", lambda w, ctx: w[0] / jnp.sqrt(jnp.sum(w[0] ** 2))))
    params = {"kernel": 3 * normal(5, 4), "bias": normal(4)}
    grads = [{"kernel": normal(5, 4), "bias": normal(4)} for _ in range(6)]
    tx = optax.chain(optax.sgd(0.1), ws.optim.project(unit, every=2))
    state = tx.init(params)
    for t, g in enumerate(grads):
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_array_equal(updates["bias"], -0.1 * g["bias"])  # a leaf that is kept has its own update
        length = float(jnp.linalg.norm(params["kernel"]))
        assert abs(length - 1) < 1e-6 if t % 2 else abs(length - 1) > 1e-2


def test_a_compressed_result_counts_as_its_array() -> None:
    """A Transform whose leaf is a node (weight norm, a quantizer) projects on what the node stands for."""
    p, g = {"kernel": normal(6, 4)}, {"kernel": normal(6, 4)}
    got = landed(ws.reparam.weight_norm(), p, g)
    np.testing.assert_allclose(got["kernel"], p["kernel"] - 0.1 * g["kernel"], rtol=1e-5, atol=1e-6)


def test_random_projections_draw_anew() -> None:
    def apply(leaves: Any, ctx: ws.Context) -> jax.Array:
        return jax.random.normal(ctx.key, leaves[0].shape)

    noise = ws.leafwise("noise", apply, needs=frozenset({"key"}))
    params, zero = {"w": jnp.zeros(3)}, {"w": jnp.zeros(3)}
    tx = ws.optim.project(noise, key=jax.random.key(0))
    one, state = tx.update(zero, tx.init(params), params)
    two, _ = tx.update(zero, state, params)
    assert np.all(one["w"] != two["w"])


def test_misuse_raises_before_training() -> None:
    with pytest.raises(ShapeError, match="every >= 1 update between projections, but got 0"):
        ws.optim.project(ws.prune.magnitude(0.5), every=0)
    with pytest.raises(SelectionError, match="matches none"):
        ws.optim.project(ws.on("kernal", ws.prune.magnitude(0.5))).init({"kernel": jnp.ones((2, 2))})
