"""Deleted, an average along a run could take the wrong checkpoints, or SWAD find another valley than its definition."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.average.test_ema import iterates
from tests.optax_rows import OptaxRow
from tests.optim.test_laws import loop
from tests.rows import close
from wspace.average import (
    lawa,
    lawa_params,
    swad,
    swad_window,
    tail_average,
    tail_average_params,
    valley_average,
    valley_average_params,
)
from wspace.core.errors import NonFinite, ShapeError, SideTreeError, TreeMismatch, WspaceError


def run(make: Any, steps: int) -> tuple[Any, list[dict[str, np.ndarray]]]:
    row = OptaxRow("run", make, lambda params, grads: params, steps=steps)
    params, grads = row.example()
    return loop(row, params, grads, jax.jit)[1], iterates(row, params, grads)


@pytest.mark.parametrize(
    ("k", "every", "steps", "taken"),
    [
        (3, 2, 7, (2, 4, 6)),
        (3, 2, 9, (4, 6, 8)),
        (4, 2, 5, (2, 4)),
        (1, 1, 5, (5,)),
        (2, 4, 3, (0,)),
        (5, 1, 7, range(3, 8)),
    ],
)
def test_lawa_is_the_mean_of_the_latest_checkpoints(k: int, every: int, steps: int, taken: Any) -> None:
    state, theta = run(lambda: lawa(k, every), steps)
    close(lawa_params(state), {p: np.mean([theta[t][p] for t in taken], axis=0) for p in theta[0]}, 2e-6)


@pytest.mark.parametrize(
    ("start", "every", "steps", "taken"),
    [(3, 2, 8, (3, 5, 7)), (0, 1, 6, range(1, 7)), (6, 1, 4, (4,)), (5, 1, 5, (5,)), (2, 3, 7, (2, 5))],
)
def test_the_tail_average_is_the_mean_of_the_stored_iterates(start: int, every: int, steps: int, taken: Any) -> None:
    state, theta = run(lambda: tail_average(start, every), steps)
    close(tail_average_params(state), {p: np.mean([theta[t][p] for t in taken], axis=0) for p in theta[0]}, 2e-6)


@pytest.mark.parametrize(("make", "read"), [(lawa, lawa_params), (tail_average, tail_average_params)])
def test_constant_iterates_stay_and_misuse_is_named(make: Any, read: Any) -> None:
    params = {"w": jnp.asarray([0.1, -3.0], jnp.bfloat16), "step": jnp.int32(3)}
    tx = make()
    state = tx.init(params)
    for _ in range(4):
        _, state = tx.update({"w": jnp.zeros(2, jnp.bfloat16), "step": jnp.int32(0)}, state, params)
    np.testing.assert_array_equal(read(state, like=params)["w"], params["w"])
    assert read(state)["w"].dtype == jnp.float32
    with pytest.raises(SideTreeError, match="needs the parameters"):
        tx.update({"w": jnp.zeros(2)}, state)
    with pytest.raises(TreeMismatch, match="found 0"):
        read(optax.sgd(0.1).init(params))
    with pytest.raises(WspaceError, match="every is 0"):
        make(1, every=0)


def test_noise_averages_out() -> None:
    """On a noisy quadratic at a constant rate the tail average has the lower loss: a fact of stochastic descent."""
    tx = optax.chain(optax.sgd(0.5), tail_average(start=50))

    def step(carry: Any, noise: Any) -> Any:
        w, state = carry
        updates, state = tx.update({"w": w["w"] + noise}, state, w)
        return (optax.apply_updates(w, updates), state), None

    start = {"w": jnp.ones(16)}
    noise = jax.random.normal(jax.random.key(0), (400, 16))
    (last, state), _ = jax.lax.scan(step, (start, tx.init(start)), noise)
    assert jnp.sum(tail_average_params(state)["w"] ** 2) < 0.1 * jnp.sum(last["w"] ** 2)


def slow_window(losses: list[float], n_s: int, n_e: int, r: float) -> tuple[int, int]:
    """Evaluation by evaluation, as training would see it."""
    for s in range(len(losses) - n_s + 1):
        if losses[s] == min(losses[s : s + n_s]):
            limit = (1 + r) * sum(losses[s : s + n_s]) / n_s
            end = len(losses)
            while end - 1 > s and all(x > limit for x in losses[end - 1 :]):
                end -= 1  # the rise that the run ends in
            for e in range(s + n_e, len(losses)):
                if all(x > limit for x in losses[e - n_e + 1 : e + 1]):
                    return s, min(end, e - n_e + 1)
            return s, end
    return len(losses) - 1, len(losses)


@pytest.mark.parametrize("seed", range(8))
def test_the_valley_is_that_of_a_slow_reading(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for n in (1, 2, 5, 12, 30):
        valley = np.abs(np.linspace(-1, 1, n)) * 3 + rng.random(n)
        for n_s, n_e in ((3, 6), (1, 1), (3, 2)):
            assert swad_window(list(valley), n_s, n_e, 0.3) == slow_window(list(valley), n_s, n_e, 0.3)


def test_swad_by_hand() -> None:
    """The dip to 2 ends the search; 2.9 is above 1.3 * mean(2, 2.1, 2.2) = 2.73 but not for two evaluations."""
    losses = [5.0, 4.0, 2.0, 2.1, 2.2, 2.9, 2.5, 2.8, 3.0, 1.0]
    assert swad_window(losses, 3, 2, 0.3) == (2, 7)
    assert swad_window([3.0, 2.0, 1.0], 3, 2) == (2, 3)
    trees = [{"w": jnp.float32(i)} for i in range(10)]
    assert float(swad(losses, trees, 3, 2)["w"]) == 4.0
    with pytest.raises(ShapeError, match="10 losses for 9"):
        swad(losses, trees[:-1])
    with pytest.raises(NonFinite, match="loss 1 is NaN"):
        swad_window([1.0, float("nan")])


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("steep", [3, 0], ids=["valley", "up and down"])
def test_the_valley_of_a_run_is_that_of_swad_on_its_segments(seed: int, steep: float) -> None:
    """After every evaluation of noisy valleys: what is kept online is what the whole record gives."""
    rng = np.random.default_rng(seed)
    for n_s, n_e in ((3, 6), (1, 1), (3, 2), (2, 4)):
        tx = valley_average(n_s, n_e, 0.3)
        update = jax.jit(tx.update)
        state = tx.init({"w": jnp.float32(0), "n": jnp.int32(5)})
        losses, segments = [], []
        for x in np.abs(np.linspace(-1, 1, 24)) * steep + rng.random(24):
            own = rng.standard_normal(int(rng.integers(1, 4)))
            for k, w in enumerate(own):
                loss = x if k == len(own) - 1 else jnp.nan
                params = {"w": jnp.float32(w), "n": jnp.int32(5)}
                _, state = update({"w": 0.0, "n": 0}, state, params, loss=jnp.float32(loss))
            losses.append(float(np.float32(x)))
            segments.append(own.mean())
            start, end = swad_window(losses, n_s, n_e, 0.3)
            got = valley_average_params(state)
            np.testing.assert_allclose(got["w"], np.mean(segments[start:end]), rtol=1e-5, atol=1e-6)
        assert got["n"] == 5


def test_a_run_that_begins_with_infinite_losses_has_its_valley_after_them() -> None:
    inf = float("inf")
    losses, trees = [inf, inf, inf, 2.0, 2.1, inf, 2.2, inf, inf, inf], [{"w": jnp.float32(i)} for i in range(10)]
    assert swad_window(losses, 2, 3) == (3, 7)
    tx = valley_average(2, 3)
    state = tx.init(trees[0])
    for tree, loss in zip(trees, losses, strict=True):
        _, state = tx.update({"w": jnp.float32(0)}, state, tree, loss=loss)
    assert float(valley_average_params(state)["w"]) == float(swad(losses, trees, 2, 3)["w"]) == 4.5


def test_before_an_evaluation_the_valley_is_the_mean_so_far() -> None:
    tx = optax.chain(optax.sgd(0.1), valley_average())
    params = {"w": jnp.asarray([1.0, 3.0], jnp.bfloat16)}
    state = tx.init(params)
    np.testing.assert_array_equal(valley_average_params(state)["w"], [1, 3])
    for w in (2.0, 4.0):
        _, state = tx.update({"w": jnp.zeros(2, jnp.bfloat16)}, state, {"w": jnp.full(2, w, jnp.bfloat16)})
    np.testing.assert_array_equal(valley_average_params(state, like=params)["w"], jnp.full(2, 3, jnp.bfloat16))
    _, state = tx.update({"w": jnp.zeros(2, jnp.bfloat16)}, state, params, loss=1.0)
    np.testing.assert_allclose(valley_average_params(state)["w"], [7 / 3, 3], rtol=1e-6)
    with pytest.raises(ShapeError, match="windows of 0 and 6"):
        valley_average(0)
