"""Deleted, folded scales could change a model's function, and bias correction or equalization could miss their mean."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wspace as ws
from tests.trace.zoo import ZOO
from wspace.core.axes import Axes

RNG = np.random.default_rng(0)


def network(spread: float = 1.0) -> tuple[Any, Any, Any]:
    """Three layers with relu between and biases, with channels scaled apart, which relu lets pass."""
    sizes = (12, 24, 16, 5)
    params = {
        f"layer{k}": {
            "kernel": jnp.asarray(RNG.standard_normal((a, b)) / np.sqrt(a), jnp.float32),
            "bias": jnp.asarray(RNG.standard_normal(b) / 4, jnp.float32),
        }
        for k, (a, b) in enumerate(pairwise(sizes))
    }

    def apply(p: Any, x: Any) -> Any:
        for k in range(3):
            x = x @ p[f"layer{k}"]["kernel"] + p[f"layer{k}"]["bias"][None]
            x = jnp.maximum(x, 0) if k < 2 else x
        return x

    x = jnp.asarray(RNG.standard_normal((200, 12)), jnp.float32)
    axes = ws.trace.axes(apply, params, x, kind="scale")
    g = {n: jnp.asarray(np.exp(spread * RNG.standard_normal(a.shape)), jnp.float32) for n, a in axes.groups.items()}
    return apply, ws.match.act(params, axes, g), x


def off(apply: Any, q: Any, params: Any, x: Any) -> float:
    run = jax.jit(apply)
    return float(np.mean(np.square(np.asarray(run(ws.materialize(q), x)) - np.asarray(run(params, x)))))


def test_equalized_layers_have_equal_ranges_and_the_same_function() -> None:
    apply, params, x = network()
    axes = ws.trace.axes(apply, params, x, kind="scale")
    made = ws.quant.equalize(params, axes, ws.match.act)
    run = jax.jit(apply)
    np.testing.assert_allclose(run(made, x), run(params, x), rtol=2e-4, atol=2e-4)
    for k in range(2):
        out = np.abs(made[f"layer{k}"]["kernel"]).max(0)
        np.testing.assert_allclose(out, np.abs(made[f"layer{k + 1}"]["kernel"]).max(1), rtol=1e-4)


def test_data_free_quantization_of_channels_that_are_scaled_apart() -> None:
    """One scale a matrix, 8 bits: plain, equalized, and with biases corrected; each step lowers the output's error."""
    apply, params, x = network(spread=1.5)
    t = ws.on("kernel", ws.quant.rtn(6, "tensor"))
    even = ws.quant.equalize(params, ws.trace.axes(apply, params, x, kind="scale"), ws.match.act)
    mean = ws.calibrate(apply, even, [x], "mean")["mean"]
    plain, equal = t(params), t(even)
    errors = [off(apply, q, params, x) for q in (plain, equal, ws.quant.bias_correct(even, equal, mean))]
    assert errors[1] < 0.2 * errors[0] and errors[2] < errors[1], errors


def test_a_corrected_bias_gives_the_output_its_mean_back() -> None:
    w = {"a": {"weight": RNG.standard_normal((6, 8)).astype(np.float32), "bias": np.ones(6, np.float32)}}
    x = RNG.standard_normal((300, 8)).astype(np.float32) + 1
    q = ws.on("weight", ws.quant.rtn(2))(w)
    made = ws.quant.bias_correct(w, q, {"a": {"weight": x.mean(0), "bias": None}})
    flat = ({f"a.{n}": leaf for n, leaf in p["a"].items()} for p in (w, q))
    named = ws.quant.bias_correct(*flat, {"a.weight": x.mean(0), "a.bias": None})  # as Hugging Face names them
    np.testing.assert_array_equal(named["a.bias"], made["a"]["bias"])
    before, after = (x @ np.asarray(ws.materialize(p)["a"]["weight"]).T + np.asarray(p["a"]["bias"]) for p in (w, made))
    np.testing.assert_allclose(after.mean(0), before.mean(0), atol=1e-5)
    assert np.abs((x @ np.asarray(ws.materialize(q)["a"]["weight"]).T + 1).mean(0) - before.mean(0)).max() > 0.05
    with pytest.raises(ws.core.errors.SelectionError, match="no matrix has a bias"):
        ws.quant.bias_correct(w, q, {"a": {"weight": None, "bias": None}})


@pytest.mark.parametrize(("low", "high"), [(0.0, np.inf), (0.0, 6.0), (-1.0, 1.0)])
def test_the_mean_of_a_clipped_normal(low: float, high: float) -> None:
    draws = RNG.standard_normal(2_000_000)
    for mean, std in ((0.0, 1.0), (-2.0, 1.5), (3.0, 4.0)):
        got = ws.quant.clipped_normal_mean(jnp.array(mean), jnp.array(std), low, high)
        assert abs(float(got) - np.clip(mean + std * draws, low, high).mean()) < 5e-3


def test_a_high_bias_is_absorbed_where_the_relu_is_open() -> None:
    w1, w2 = RNG.standard_normal((8, 16)) / 8, RNG.standard_normal((16, 4))
    x = RNG.standard_normal((500, 8))
    b1, b2 = RNG.standard_normal(16) + 3, RNG.standard_normal(4)
    std = np.linalg.norm(w1, axis=0)
    made = [np.asarray(b) for b in ws.quant.absorb_bias(*(jnp.asarray(v, jnp.float32) for v in (b1, w2, b2, b1, std)))]
    before, after = (np.maximum(x @ w1 + a, 0) @ w2 + c for a, c in ((b1, b2), made))
    assert np.abs(after - before).mean() < 1e-3 * np.abs(before).mean() and np.all(made[0] <= b1 + 1e-6)
    assert np.maximum(x @ w1 + made[0], 0).max() < 0.8 * np.maximum(x @ w1 + b1, 0).max()


def test_scales_of_inputs_fold_into_what_comes_before() -> None:
    """Smoothing: at alpha = 1/2 the largest activations and weights get equal; the function stays."""
    apply, params, x = network()
    axes = ws.trace.axes(apply, params, x, kind="scale")
    g = ws.quant.smooth_element(params, axes, ws.calibrate(apply, params, [x], "abs_max")["abs_max"])
    assert ws.match.check_invariance(jax.jit(apply), params, axes, g, x) < 1e-5
    made = ws.match.act(params, axes, g)
    largest = ws.calibrate(apply, made, [x], "abs_max")["abs_max"]
    np.testing.assert_allclose(largest["layer2"]["kernel"], np.abs(made["layer2"]["kernel"]).max(1), rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gpt", "llama-scanned"])
def test_awq_and_smoothing_fold_into_norms_and_values_of_a_transformer(name: str) -> None:
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        apply, params, inputs = ZOO[name].make()
        axes = ws.trace.axes(apply, params, *inputs, kind="scale")
        found = ws.calibrate(lambda p, x: apply(p, *x), params, [inputs], ["gram", "abs_mean", "abs_max"])

        @jax.jit
        def elements(params: Any, stats: Any) -> Any:
            smooth = ws.quant.smooth_element(params, axes, stats["abs_max"], roles=found.axes)
            given = (stats["gram"], stats["abs_mean"])
            return smooth, ws.quant.awq_element(params, axes, *given, bits=3, steps=4, roles=found.axes)

        run = jax.jit(apply)
        for g in elements(params, dict(found)):
            moved = [n for n, s in g.items() if np.ptp(np.asarray(s)) > 1e-3]
            assert len(moved) >= 2, moved
            assert ws.match.check_invariance(run, params, axes, g, *inputs, tolerance=1e-4) <= 1e-4


def test_awq_folded_lowers_the_error_of_all_that_share_inputs() -> None:
    """Two readers of one hidden layer whose channels differ in size: one set of scales for both."""

    def apply(p: Any, x: Any) -> Any:
        h = jnp.maximum(x @ p["up"], 0)
        return h @ p["a"], h @ p["b"]

    up = RNG.standard_normal((16, 64)) * np.where(np.arange(64) % 16 == 3, 12, 1)
    params = {"up": up, "a": RNG.standard_normal((64, 24)), "b": RNG.standard_normal((64, 8))}
    params = jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), params)
    x = jnp.asarray(RNG.standard_normal((400, 16)), jnp.float32)
    axes = ws.trace.axes(apply, params, x, kind="scale")
    roles = Axes({"up|a|b": "in out"})
    found = ws.calibrate(apply, params, [x], ["gram", "abs_mean"], axes=roles)
    g = ws.quant.awq_element(params, axes, found["gram"], found["abs_mean"], bits=3, group=32, roles=roles)
    t = ws.on("^[ab]$", ws.quant.rtn(3, group=32, symmetric=False))

    run = jax.jit(apply)

    def error(p: Any) -> float:
        made = run(ws.materialize(t(p, axes=roles)), x)
        return sum(float(np.sum(np.square(np.subtract(a, b)))) for a, b in zip(made, run(params, x), strict=True))

    assert error(ws.match.act(params, axes, g)) < 0.7 * error(params)
