"""Deleted, GPTQ's blocks could differ from the paper's one-by-one algorithm, gain nothing over rounding, or unroll."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wspace as ws
from tests.quant.rows import gptq as slow
from tests.stats.grams import activations, gram
from wspace.quant import sweep
from wspace.quant.formats import named
from wspace.quant.gptq import Form, damped, gptq_array, upper_factor, walk
from wspace.quant.grid import Block

INPUTS, OUTPUTS = 64, 12


def layer(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, the Gram matrix of 300 correlated inputs, and 300 others like them."""
    rng = np.random.default_rng(seed)
    x, held_out = np.split(activations(rng, 600, INPUTS), 2)
    return rng.standard_normal((INPUTS, OUTPUTS)), gram(x), held_out


def solved(w: np.ndarray, g: np.ndarray, **settings: Any) -> np.ndarray:
    made = ws.quant.gptq(**settings)({"kernel": w}, gram={"kernel": g})["kernel"]
    return np.asarray(made.materialize())


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("group", "block"), [(None, 128), (None, 8), (16, 64), (8, 32), (32, 8), (4, 24), (1, 5)])
def test_blocks_of_any_size_give_the_codes_of_one_input_at_a_time(
    group: int | None, block: int, symmetric: bool
) -> None:
    w, g, _ = layer()
    settings = {"bits": 3, "group": group, "symmetric": symmetric, "damp": 0.05}
    want = slow([w.astype(np.float32).astype(np.float64)], {"gram": g}, None, **settings)
    got = solved(w.astype(np.float32), g, block=block, **settings)
    np.testing.assert_allclose(got, want, atol=2e-6 * np.abs(want).max())


@pytest.mark.parametrize("group", [None, 16])
def test_inputs_in_the_order_of_their_size(group: int | None) -> None:
    w, g, _ = layer(1)
    settings = {"bits": 4, "group": group, "act_order": True}
    want = slow([w.astype(np.float32).astype(np.float64)], {"gram": g}, None, **settings)
    got = solved(w.astype(np.float32), g, **settings)
    np.testing.assert_allclose(got, want, atol=2e-6 * np.abs(want).max())


@pytest.mark.parametrize("bits", [3, 4])
def test_the_output_on_data_not_seen_changes_far_less_than_by_rounding(bits: int) -> None:
    """Inputs that vary in few directions, as those of trained layers do: mean squares of the output's error."""
    rng = np.random.default_rng(2)
    directions = rng.standard_normal((INPUTS // 4, INPUTS))
    tokens = rng.standard_normal((1200, INPUTS // 4)) @ directions + 0.3 * rng.standard_normal((1200, INPUTS))
    seen, held_out = np.split(tokens, 2)
    w, g = rng.standard_normal((INPUTS, OUTPUTS)).astype(np.float32), gram(seen)
    rtn = ws.quant.rtn(bits, group=16)({"kernel": w})["kernel"].materialize()
    plain, gptq, ordered = (
        np.mean((held_out @ (np.asarray(q) - w)) ** 2)
        for q in (rtn, solved(w, g, bits=bits, group=16), solved(w, g, bits=bits, group=16, act_order=True))
    )
    assert gptq < 0.4 * plain and ordered < 0.4 * plain, (plain, gptq, ordered)


def test_weights_on_the_grid_stay() -> None:
    w, g, _ = layer(3)
    q = ws.quant.rtn(4, group=16)({"kernel": w.astype(np.float32)})["kernel"].materialize()
    np.testing.assert_allclose(solved(q, g, bits=4, group=16), q, rtol=1e-6)


def test_without_correlation_it_is_rounding() -> None:
    w, _, _ = layer(4)
    w = w.astype(np.float32)
    for settings in ({"group": 8}, {"symmetric": False, "act_order": True}):
        plain = ws.quant.rtn(4, **{k: v for k, v in settings.items() if k != "act_order"})({"kernel": w})["kernel"]
        np.testing.assert_array_equal(solved(w, np.eye(INPUTS), bits=4, **settings), plain.materialize())


def test_dead_inputs_get_no_weight_and_disturb_none() -> None:
    w, g, _ = layer(5)
    dead = np.arange(INPUTS) % 16 == 3
    g[dead], g[:, dead] = 0, 0
    got = solved(w.astype(np.float32), g)
    assert np.all(got[dead] == 0) and np.isfinite(got).all() and np.any(got[~dead])
    assert np.all(solved(w.astype(np.float32), np.zeros_like(g)) == 0)


def test_a_singular_gram_is_flagged_in_its_leaf_and_mended_by_damp() -> None:
    w, g, _ = layer(6)
    flat = np.ones_like(g)  # rank one
    params = {"sick": {"kernel": w.astype(np.float32)}, "well": {"kernel": w.astype(np.float32)}}
    side = {"sick": {"kernel": flat - 0.5 * np.eye(INPUTS)}, "well": {"kernel": g}}
    got = ws.materialize(ws.quant.gptq(damp=0.0, group=16)(params, gram=side))
    assert np.isnan(got["sick"]["kernel"]).all() and np.isfinite(got["well"]["kernel"]).all()
    assert np.isfinite(solved(w.astype(np.float32), flat, damp=0.01)).all()


@pytest.mark.parametrize("least", [20, 512])
def test_the_factor_is_the_inverse_of_the_cholesky_factor_of_the_inverse(least: int) -> None:
    _, g, _ = layer(7)
    g = g[:-1, :-1]  # no even number of rows
    with jax.enable_x64(True):
        m = np.asarray(jax.jit(partial(upper_factor, least=least))(g))
    want = np.linalg.cholesky(np.linalg.inv(g)).T
    np.testing.assert_allclose(np.linalg.inv(m), want, atol=1e-9 * np.abs(want).max())


def test_errors_of_many_inputs_are_counted_by_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "MANY", INPUTS)
    w, g, _ = layer(8)
    want = slow([w.astype(np.float32).astype(np.float64)], {"gram": g}, None, bits=3, group=4, damp=0.05)
    given = damped(jnp.asarray(w, jnp.float32), jnp.asarray(g, jnp.float32), 0.05)
    _, got, _ = jax.jit(lambda w, g: walk(w, g, Form(named("int3"), Block(4, 1)), 12))(*given)
    np.testing.assert_allclose(got, want, atol=2e-6 * np.abs(want).max())


@pytest.mark.parametrize("act_order", [False, True])
def test_a_larger_layer_is_no_larger_program(act_order: bool) -> None:
    def lines(inputs: int) -> int:
        w, g = jax.ShapeDtypeStruct((inputs, 8), "float32"), jax.ShapeDtypeStruct((inputs, inputs), "float32")
        lowered = gptq_array.lower(w, g, 0.01, grid=named("int4"), block=Block(32, 1), act_order=act_order)
        return len(lowered.as_text().splitlines())

    assert lines(16384) <= lines(8192)
    assert lines(512) <= lines(384)


def test_misuse_is_named() -> None:
    params = {"layer": {"kernel": jnp.ones((8, 4))}}
    with pytest.raises(ws.WspaceError, match=r"needs the side tree\(s\) gram"):
        ws.quant.gptq()(params)
    with pytest.raises(ws.WspaceError, match="layer/kernel has 8 inputs, which group=3"):
        ws.quant.gptq(group=3)(params, gram={"layer": {"kernel": np.eye(8)}})
    with pytest.raises(ws.WspaceError, match=r"'gram' has \(4, 4\) for layer/kernel"):
        ws.quant.gptq()(params, gram={"layer": {"kernel": np.eye(4)}})
    with pytest.raises(ws.WspaceError, match="block=0"):
        ws.quant.gptq(block=0)
