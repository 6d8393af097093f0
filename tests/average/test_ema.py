"""Deleted, the average in an optax chain could lag a step, be biased, stop moving in bfloat16, or break donation."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import wspace as ws
from tests.average.rows import OPTAX_ROWS
from tests.optax_rows import OptaxRow, descend
from tests.optim.test_laws import loop
from tests.rows import close, weights
from wspace.average import ema, ema_params
from wspace.core.errors import SideTreeError, TreeMismatch, WspaceError


def iterates(row: OptaxRow, params: Any, grads: Any) -> list[dict[str, np.ndarray]]:
    """theta_0, theta_1, ... in float64."""
    each = weights(grads)
    steps = descend(weights(params), [{p: g[t] for p, g in each.items()} for t in range(row.steps)])
    return [weights(params), *({p: w.copy() for p, w in now.items()} for _, now in steps)]


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("decay", [0.0, 0.6, 0.9999])
def test_the_average_is_the_sum_of_the_definition(decay: float, wrap: Any) -> None:
    """The plain one by its closed form; the corrected one by the textbook's zero start and division."""
    row = OPTAX_ROWS[0]
    params, grads = row.example()
    theta = iterates(row, params, grads)
    plain = {p: decay**row.steps * w for p, w in theta[0].items()}
    moment = {p: np.zeros_like(w) for p, w in theta[0].items()}
    for t in range(1, row.steps + 1):
        plain = {p: w + (1 - decay) * decay ** (row.steps - t) * theta[t][p] for p, w in plain.items()}
        moment = {p: decay * m + (1 - decay) * theta[t][p] for p, m in moment.items()}
    corrected = {p: m / (1 - decay**row.steps) for p, m in moment.items()}
    for debias, want in ((False, plain), (True, corrected)):
        tx = OptaxRow("ema", lambda debias=debias: ema(decay, debias), row.truth)
        _, state = loop(tx, params, grads, wrap)
        close(ema_params(state), want, 2e-6)


@pytest.mark.parametrize(("start", "every"), [(3, 2), (5, 1), (0, 3), (9, 1)])
@pytest.mark.parametrize("debias", [False, True])
def test_it_begins_late_and_counts_every_few_updates(start: int, every: int, debias: bool) -> None:
    row = OptaxRow("ema", lambda: ema(0.7, debias, start, every), lambda p, g: p, steps=8)
    params, grads = row.example()
    theta = iterates(row, params, grads)
    first = max(start, 1)
    average, moment, n = theta[min(first - 1, 8)], {p: np.zeros_like(w) for p, w in theta[0].items()}, 0
    for t in range(first, 9, every):
        average = {p: 0.7 * a + 0.3 * theta[t][p] for p, a in average.items()}
        moment, n = {p: 0.7 * m + 0.3 * theta[t][p] for p, m in moment.items()}, n + 1
    want = {p: m / (1 - 0.7**n) for p, m in moment.items()} if debias and n else average
    close(ema_params(loop(row, params, grads, jax.jit)[1]), want, 2e-6)


def test_a_decay_near_one_keeps_its_digits() -> None:
    """1 - 0.9999 is off by 2e-4 of itself if 0.9999 is rounded to float32 first."""
    tx = ema(0.9999)
    state = tx.init({"w": jnp.zeros(2)})
    for _ in range(3):
        _, state = tx.update({"w": jnp.ones(2)}, state, {"w": jnp.zeros(2)})
    np.testing.assert_allclose(ema_params(state)["w"], 1 - 0.9999**3, rtol=1e-6)


def test_before_the_first_update_it_is_the_initial_parameters() -> None:
    params = {"w": jnp.array([1.0, 2.0])}
    for debias in (False, True):
        np.testing.assert_array_equal(ema_params(ema(0.9, debias).init(params))["w"], params["w"])


def test_a_bfloat16_model_has_an_average_that_moves() -> None:
    """A step of 2^-10 is less than half a unit in the last place of bfloat16 at 1: kept in it, it would stay there."""
    params = {"w": jnp.ones(3, jnp.bfloat16)}
    tx = optax.chain(optax.sgd(1.0), ema(1 - 2.0**-10))
    state = tx.init(params)
    for step in range(64):
        updates, state = tx.update({"w": jnp.full(3, 1.0 if step == 0 else 0.0, jnp.bfloat16)}, state, params)
        params = optax.apply_updates(params, updates)
    want = (1 - 2.0**-10) ** 64
    assert ema_params(state)["w"].dtype == jnp.float32
    np.testing.assert_allclose(ema_params(state)["w"], want, rtol=1e-6)
    like = ema_params(state, like=params)["w"]
    assert like.dtype == jnp.bfloat16
    np.testing.assert_allclose(like.astype(jnp.float32), want, rtol=2.0**-8)


def test_parameters_and_state_can_be_donated_together() -> None:
    tx = optax.chain(optax.sgd(0.5), ema(0.5))

    @jax.jit
    def start() -> Any:
        return {"w": jnp.ones(4)}

    def step(params: Any, state: Any) -> Any:
        updates, state = tx.update({"w": jnp.ones(4)}, state, params)
        return optax.apply_updates(params, updates), state

    params = start()
    params, state = jax.jit(step, donate_argnums=(0, 1))(params, tx.init(params))
    np.testing.assert_array_equal(ema_params(state)["w"], np.full(4, 0.75))


def test_only_floating_leaves_are_averaged_and_containers_come_back() -> None:
    model = nnx.BatchNorm(4, rngs=nnx.Rngs(0))
    params = nnx.state(model)
    state = ema(0.5).init(params)
    assert jax.tree.structure(ema_params(state)) == jax.tree.structure(params)
    mixed = {"w": jnp.ones(2), "codes": jnp.array([3], jnp.int8), "none": None}
    zeros = {"w": jnp.ones(2), "codes": jnp.array([1], jnp.int8), "none": None}
    _, state = ema(0.5).update(zeros, ema(0.5).init(mixed), mixed)
    got = ema_params(state, like=mixed)
    np.testing.assert_array_equal(got["w"], [1.5, 1.5])
    assert got["codes"] == 4 and got["codes"].dtype == jnp.int8 and got["none"] is None


def test_an_adapter_is_averaged_field_by_field() -> None:
    node = ws.reparam.lora(rank=2)({"kernel": jnp.ones((4, 3))}, key=jax.random.key(0))
    state = ema(0.5).init(node)
    _, state = ema(0.5).update(jax.tree.map(jnp.ones_like, node), state, node)
    got, want = jax.tree.leaves(ema_params(state)), [x + 0.5 for x in jax.tree.leaves(node)]
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_the_decay_can_be_swept() -> None:
    def run(decay: jax.Array) -> jax.Array:
        tx = ema(decay, debias=True)
        params = {"w": jnp.ones(())}
        state = tx.init(params)
        for value in (2.0, 5.0):
            _, state = tx.update({"w": jnp.float32(value - 1)}, state, params)
        return ema_params(state)["w"]

    np.testing.assert_allclose(jax.vmap(run)(jnp.array([0.0, 0.5])), [5.0, (0.25 * 2 + 0.5 * 5) / 0.75], rtol=1e-6)


def test_misuse_is_named() -> None:
    tx = ema(0.5)
    state = tx.init({"w": jnp.ones(2)})
    with pytest.raises(SideTreeError, match=r"call it as update\(updates, state, params\)"):
        tx.update({"w": jnp.ones(2)}, state)
    with pytest.raises(TreeMismatch, match="found 0 EmaStates"):
        ema_params(optax.sgd(0.1).init({"w": jnp.ones(2)}))
    with pytest.raises(TreeMismatch, match="found 2 EmaStates"):
        ema_params((state, state))
    for late in ({"start": -1}, {"every": 0}):
        with pytest.raises(WspaceError, match="at least 0 and 1"):
            ema(0.5, **late)
    for decay in (1.0, -0.1, 999):
        with pytest.raises(WspaceError, match="at least 0 and below 1"):
            ema(decay)
