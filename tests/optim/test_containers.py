"""Deleted, prune and project could work on plain dicts only, and fail in a flax, equinox or haiku training loop."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.core import FrozenDict

import wspace as ws
from wspace.core.containers import as_params

W = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
B = np.ones(4, np.float32)


def nnx_state() -> Any:
    model = nnx.Linear(6, 4, rngs=nnx.Rngs(0))
    model.kernel[...], model.bias[...] = jnp.asarray(W), jnp.asarray(B)
    return nnx.state(model, nnx.Param)


def equinox_module() -> Any:
    """The floating leaves of a module: None where it has an activation function."""
    model = eqx.nn.MLP(6, 4, width_size=1, depth=0, key=jax.random.key(0))
    where = lambda m: (m.layers[0].weight, m.layers[0].bias)  # noqa: E731
    return eqx.filter(eqx.tree_at(where, model, (jnp.asarray(W.T), jnp.asarray(B))), eqx.is_inexact_array)


def haiku_params() -> Any:
    layer = hk.transform(lambda x: hk.Linear(4, w_init=hk.initializers.Constant(W), b_init=jnp.ones)(x))
    return layer.init(jax.random.key(0), jnp.ones((1, 6)))


CONTAINERS = {
    "dict": lambda: {"kernel": jnp.asarray(W), "bias": jnp.asarray(B)},
    "frozen dict": lambda: FrozenDict({"kernel": jnp.asarray(W), "bias": jnp.asarray(B)}),
    "nested tuple": lambda: ({"kernel": jnp.asarray(W)}, [jnp.asarray(B)]),
    "nnx state": nnx_state,
    "equinox": equinox_module,
    "haiku": haiku_params,
}


@pytest.mark.parametrize("make", CONTAINERS.values(), ids=CONTAINERS.keys())
def test_the_chain_works_on_every_container(make: Any) -> None:
    """W shrinks by 10 % a step, so which weights go is known; then all that is left is doubled."""
    params = make()
    prune = ws.optim.prune(lambda s: ws.on(ws.matrices, ws.prune.magnitude(s)), 0.5)
    double = ws.optim.project(ws.on(ws.matrices, ws.leafwise("double", lambda w, ctx: 2 * w[0])), every=2)
    tx = optax.chain(optax.sgd(0.1), prune, double)
    state = tx.init(params)
    for _ in range(2):
        updates, state = jax.jit(tx.update)(params, state, params)
        assert jax.tree.structure(updates) == jax.tree.structure(params)
        params = optax.apply_updates(params, updates)
    assert type(params) is type(make()) and jax.tree.structure(params) == jax.tree.structure(make())
    leaves = {x.ndim: np.asarray(x) for x in as_params(params).leaves.values() if x is not None and hasattr(x, "ndim")}
    kept = np.abs(W) > np.sort(np.abs(W), axis=None)[11]
    want = np.where(kept, W * 0.9 * 0.9 * 2, 0)
    np.testing.assert_allclose(leaves[2] if leaves[2].shape == (6, 4) else leaves[2].T, want, rtol=1e-6)
    np.testing.assert_allclose(leaves[1], 0.81 * B, rtol=1e-6)


def test_nnx_optimizer() -> None:
    """The loop that flax users write."""
    model = nnx.Linear(6, 4, rngs=nnx.Rngs(0))
    prune = ws.optim.prune(lambda s: ws.on("kernel$", ws.prune.magnitude(s)), 0.5)
    optimizer = nnx.Optimizer(model, optax.chain(optax.sgd(0.1), prune), wrt=nnx.Param)

    @nnx.jit
    def step(model: nnx.Linear, optimizer: nnx.Optimizer) -> None:
        grads = nnx.grad(lambda m: jnp.sum(m(jnp.ones((2, 6))) ** 2))(model)
        optimizer.update(model, grads)

    for _ in range(3):
        step(model, optimizer)
        assert int((model.kernel[...] == 0).sum()) == 12 and not np.any(model.bias[...] == 0)
