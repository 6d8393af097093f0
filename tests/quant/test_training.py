"""Deleted, training could see other levels or other gradients than its papers say, or frozen weights could move."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wspace as ws
from wspace.quant import pact, qk_product, watch, watched
from wspace.quant.balanced import alternate_array
from wspace.quant.grid import Block
from wspace.quant.stochastic import stochastic_array

RNG = np.random.default_rng(0)
W = RNG.standard_normal((64, 6)).astype(np.float32)


@pytest.fixture
def optax_promotes() -> Iterator[None]:
    """optax raises a float to an integer count."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def test_gradients_of_the_learned_step_are_the_papers() -> None:
    node = ws.quant.lsq(bits=3, group=16)({"kernel": jnp.asarray(W)})["kernel"]
    pull = RNG.standard_normal(W.shape).astype(np.float32)
    slope = jax.grad(lambda n: jnp.sum(n.materialize() * pull), allow_int=True)(node)
    for j in range(6):
        for g in range(4):
            part = slice(16 * g, 16 * g + 16)
            s = float(node.step[g, j])
            v = W[part, j].astype(np.float64) / s
            inside = (v > -4) & (v < 3)
            own = np.where(inside, np.round(v) - v, np.where(v >= 3, 3, -4))
            assert float(slope.step[g, j]) == pytest.approx(np.sum(own * pull[part, j]) / np.sqrt(16 * 3), rel=2e-4)
            np.testing.assert_allclose(np.asarray(slope.w)[part, j], np.where(inside, pull[part, j], 0), rtol=1e-6)


def test_clipping_level_of_pact() -> None:
    x = jnp.array([-1.0, 0.2, 0.9, 1.5, 4.0])
    y, vjp = jax.vjp(lambda x, a: pact(x, a, bits=2), x, jnp.array(1.5))
    np.testing.assert_allclose(y, [0, 0, 1, 1.5, 1.5], atol=1e-6)
    dx, da = vjp(jnp.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    np.testing.assert_array_equal(dx, [0, 2, 3, 0, 0])
    assert float(da) == 9.0


def test_random_rounding_has_the_weight_for_its_mean() -> None:
    keys = jax.random.split(jax.random.key(0), 2000)
    grid = ws.quant.named("int3")

    def one(key: jax.Array) -> jax.Array:
        codes, scales = stochastic_array(jnp.asarray(W), key, grid, Block(64, 1))
        return ws.quant.decode(codes, grid, scales)

    mean = np.asarray(jax.lax.map(one, keys, batch_size=200)).mean(0)
    step = np.abs(W).max(0) / 3
    assert np.all(np.abs(mean - W) < 6 * step * 0.5 / np.sqrt(2000) + 1e-6)


def test_statsq_beats_the_largest_magnitude_at_two_bits() -> None:
    """OFQ's grid on Gaussian rows: relative squared error about .135 at 2 bits, against .752."""
    w = np.random.default_rng(1).standard_normal((4096, 8)).astype(np.float32)

    def error(**how: Any) -> float:
        made = np.asarray(ws.materialize(ws.quant.fake_quant(**how)({"kernel": jnp.asarray(w)}))["kernel"])
        return float(np.mean((made - w) ** 2) / np.mean(w**2))

    assert error(grid="statsq2") == pytest.approx(0.135, abs=0.01)
    assert error(bits=2) > 0.6


@pytest.mark.usefixtures("optax_promotes")
def test_frozen_weights_stay_bit_by_bit_and_the_free_ones_move() -> None:
    params = ws.quant.fake_quant(grid="statsq2")({"kernel": jnp.asarray(W)})
    tx = optax.chain(optax.adamw(0.01, weight_decay=0.1), ws.quant.confidence_guided(2, boundary=0.05))
    x = jnp.asarray(RNG.standard_normal((32, 64)), jnp.float32)

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        slope = jax.grad(lambda p: jnp.mean((x @ p["kernel"].materialize() - 1) ** 2))(params)
        updates, state = tx.update(slope, state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(3):
        before = np.asarray(params["kernel"].w)
        s = 2 * np.abs(before.astype(np.float64)).mean(0)
        place = 2 * np.clip(before / s, -1, 1 - 1e-6) - 0.5
        away = np.abs(place - np.floor(place) - 0.5)
        params, state = step(params, state)
        moved = np.asarray(params["kernel"].w) != before
        assert not np.any(moved & (away > 0.05 + 1e-5)) and np.all(moved | (away > 0.05 - 1e-5))
        assert 0 < moved.sum() < 0.4 * moved.size


def test_turns_are_counted_against_the_last_direction() -> None:
    state, want, last, way = watch(jnp.zeros(5, jnp.int8)), np.zeros(5), np.zeros(5), np.zeros(5)
    for _ in range(30):
        codes = RNG.integers(-1, 2, 5)
        change = np.sign(codes - last)
        want = 0.9 * want + 0.1 * ((change != 0) & (change == -way))
        way, last = np.where(change != 0, change, way), codes
        state = watched(state, jnp.asarray(codes, jnp.int8), momentum=0.1)
    np.testing.assert_allclose(state.frequency, want, rtol=1e-5)


def test_queries_and_keys_as_one_matrix() -> None:
    q, k = RNG.standard_normal((2, 32, 4, 8)).astype(np.float32)
    x = RNG.standard_normal((10, 32)).astype(np.float32)
    product = qk_product(jnp.asarray(q), jnp.asarray(k))
    apart = np.einsum("thd,shd->hts", np.einsum("ti,ihd->thd", x, q), np.einsum("ti,ihd->thd", x, k))
    np.testing.assert_allclose(
        np.einsum("ti,hij,sj->hts", x, product, x), apart, rtol=0, atol=2e-5 * np.abs(apart).max()
    )


def test_alternation_never_loses_and_one_more_level_helps() -> None:
    """BitsFusion's measured order: largest magnitude, alternation, alternation with the balanced level."""
    w = np.random.default_rng(2).standard_t(5, (256, 16)).astype(np.float32)

    def error(grid: str, rounds: int) -> float:
        codes, scales = alternate_array(jnp.asarray(w), ws.quant.named(grid), Block(256, 1), rounds)
        return float(np.linalg.norm(np.asarray(ws.quant.decode(codes, ws.quant.named(grid), scales)) - w))

    for bits in (2, 3):
        errors = [error(f"balanced{bits}", rounds) for rounds in range(6)]
        assert errors == sorted(errors, reverse=True)
        asymmetric = "levels:" + ",".join(str(k) for k in range(-(2 ** (bits - 1)), 2 ** (bits - 1)))
        assert errors[-1] < error(asymmetric, 10) < error(asymmetric, 0)


@pytest.mark.usefixtures("optax_promotes")
def test_bitsfusions_recipe_trains_one_to_three_bits() -> None:
    """Bits by each matrix's own error, steps of least squares, then training for what the unquantized net gave."""
    mixed = RNG.standard_normal((128, 5)) @ RNG.standard_normal((5, 16)) / 2  # of inputs that hang together
    x = jnp.asarray(mixed + 0.1 * RNG.standard_normal((128, 16)), jnp.float32)
    params = {n: jnp.asarray(RNG.standard_normal((16, 16)) * s, jnp.float32) for n, s in (("u", 0.3), ("v", 0.02))}

    def run(p: Any) -> jax.Array:
        return jnp.tanh(x @ p["u"]) @ (jnp.eye(16) + p["v"])

    wanted = run(params)
    loss = jax.jit(lambda p: jnp.mean((run(ws.materialize(p)) - wanted) ** 2))
    table = ws.budget.measured(loss, params, ws.quant.balanced, (1, 2, 3))
    choices = ws.budget.by_threshold(table, dict.fromkeys("uv", 256), 1.5 * table.costs["u"][3])
    assert choices == {"u": 3, "v": 1}  # u matters, v is close to nothing
    start = ws.budget.assign(choices, lambda b: ws.quant.lsq(b, balanced=True))(params)
    rounded = ws.budget.assign(choices, ws.quant.balanced)(params)
    for n, b in choices.items():
        np.testing.assert_allclose(start[n].materialize(), rounded[n].materialize(), atol=1e-6)
        assert len(np.unique(np.asarray(start[n].harden().codes))) <= 2**b + 1
    found, tx = start, optax.adam(optax.cosine_decay_schedule(1e-2, 100))
    state, slope = tx.init(start), jax.jit(jax.grad(loss))
    for _ in range(100):
        updates, state = tx.update(slope(found), state)
        found = optax.apply_updates(found, updates)
    assert loss(ws.quant.harden(found)) < 0.8 * loss(rounded)


@pytest.mark.usefixtures("optax_promotes")
def test_a_small_net_trains_at_two_bits() -> None:
    """Through the grid a regression gets far better than by rounding what was trained without it."""
    x = jnp.asarray(RNG.standard_normal((256, 16)), jnp.float32)
    y = jnp.tanh(x @ jnp.asarray(RNG.standard_normal((16, 8)), jnp.float32))
    start = {"u": jnp.asarray(RNG.standard_normal((16, 32)) * 0.25, jnp.float32), "v": jnp.zeros((32, 8))}
    start["v"] = jnp.asarray(RNG.standard_normal((32, 8)) * 0.2, jnp.float32)

    @jax.jit
    def loss(p: Any) -> jax.Array:
        p = ws.materialize(p)
        return jnp.mean((jax.nn.relu(x @ p["u"]) @ p["v"] - y) ** 2)

    def train(p: Any, steps: int) -> Any:
        tx = optax.adam(0.01)

        @jax.jit
        def run(p: Any) -> Any:
            def step(carry: Any, _: Any) -> Any:
                updates, state = tx.update(jax.grad(loss)(carry[0]), carry[1], carry[0])
                return (optax.apply_updates(carry[0], updates), state), None

            return jax.lax.scan(step, (p, tx.init(p)), None, steps)[0][0]

        return run(p)

    dense = train(start, 300)
    rounded = float(loss(ws.materialize(ws.quant.rtn(bits=2)(dense))))
    for make in (ws.quant.fake_quant(grid="statsq2"), ws.quant.lsq(bits=2)):
        trained = train(make(dense), 300)
        assert float(loss(trained)) < 0.5 * rounded
        hard = ws.quant.harden(trained)
        assert all(type(q).__name__ == "QTensor" for q in hard.values())
        assert float(loss(hard)) == pytest.approx(float(loss(trained)), rel=1e-4)
