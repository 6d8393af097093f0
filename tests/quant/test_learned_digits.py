"""Deleted, what the papers on learned rounding show on real inputs could be lost: on digits, seconds each."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wspace as ws
from wspace.data import digits, tasks
from wspace.quant.adaquant import tune_bias
from wspace.quant.grid import decode, encode
from wspace.quant.norm_tweaking import channel_distribution_loss, norms
from wspace.quant.reconstruct import original

pytest.importorskip("sklearn")
MODEL = tasks.classifier(width=32)
RUN = jax.jit(MODEL.apply)
SEEN, LABELS = digits.load("train")
TEST, TEST_LABELS = digits.load("test")


@pytest.fixture(scope="module")
def net() -> Any:
    start = jax.jit(MODEL.init)(jax.random.key(0), np.zeros((1, 64), np.float32))
    return tasks.train(MODEL.apply, start, SEEN, LABELS, steps=300, lr=3e-3, key=jax.random.key(1))


@jax.jit
def divergence(got: jax.Array, wanted: jax.Array) -> jax.Array:
    p = jax.nn.log_softmax(wanted)
    return jnp.mean(jnp.sum(jnp.exp(p) * (p - jax.nn.log_softmax(got)), axis=-1))


def test_discquant_on_the_models_predictions(net: Any) -> None:
    """2 bits a column: most of x at a vertex before it is rounded, and predictions far nearer than by rounding."""
    data, test = [jnp.asarray(SEEN[:512])], jnp.asarray(TEST)
    nodes = ws.on("kernel", ws.quant.discquant(bits=2, steps=0, soft=True, rho=0.03))(net)
    optimizer = optax.adam(optax.linear_schedule(0.1, 0.0, 300))
    q = ws.quant.reconstruct(MODEL.apply, nodes, data, optimizer, steps=300, loss=divergence)
    rtn = ws.on("kernel", ws.quant.rtn(bits=2))(net)
    want = RUN(net, test)
    far, near = (float(divergence(RUN(ws.materialize(p), test), want)) for p in (rtn, q))
    assert near < 0.3 * far, (far, near)
    right = [tasks.accuracy(RUN, ws.materialize(p), TEST, TEST_LABELS) for p in (rtn, q)]
    assert right[1] > right[0] + 0.03
    jax.tree.map(np.testing.assert_array_equal, ws.materialize(original(nodes)), net)


@pytest.mark.parametrize(("bits", "gain"), [(2, 0.6), (4, 0.5)])
def test_adaquant_on_a_layer_in_the_middle(net: Any, bits: int, gain: float) -> None:
    """32 inputs kept; error on inputs not seen, relative to the output, against rounding with the scale of least error.

    Inputs are quantized to 8 bits as well.
    """
    first, p = (jax.tree.map(np.asarray, net["params"][n]) for n in ("hidden0", "hidden1"))
    seen, held_out = (np.maximum(x @ first["kernel"] + first["bias"], 0) for x in (SEEN, TEST))
    found = ws.quant.adaquant_layer(p["kernel"], p["bias"], seen[:32], bits=bits)
    assert found.after < found.before
    grid = ws.quant.named("int8_asymmetric")
    rounded = np.asarray(decode(encode(jnp.asarray(held_out), grid, found.input_scales), grid, found.input_scales))
    want = held_out @ p["kernel"]
    plain = [ws.quant.rtn(bits, symmetric=False, scale=scale) for scale in ("absmax", "mse")]
    rtn, searched = (held_out @ np.asarray(t({"kernel": p["kernel"]})["kernel"].materialize()) for t in plain)
    learned = rounded @ np.asarray(found.kernel.materialize()) + np.asarray(found.bias) - p["bias"]
    errors = [np.sum((x - want) ** 2) / np.sum(want**2) for x in (rtn, searched, learned)]
    assert errors[2] < gain * min(errors[:2]), errors


def test_tuned_biases_have_the_outputs_mean(net: Any) -> None:
    p = jax.tree.map(np.asarray, net["params"]["hidden0"])
    q = np.asarray(ws.quant.rtn(bits=2)({"kernel": p["kernel"]})["kernel"].materialize())
    got, want = (SEEN @ w + p["bias"] for w in (q, p["kernel"]))
    bias = np.asarray(tune_bias(jnp.asarray(p["bias"]), jnp.asarray(got), jnp.asarray(want)))
    np.testing.assert_allclose(np.mean(SEEN @ q + bias, axis=0), np.mean(want, axis=0), atol=1e-5)


def residual(p: Any, x: Any) -> Any:
    """One block of a residual perceptron, normalized first."""
    mean, var = jnp.mean(x, axis=-1, keepdims=True), jnp.var(x, axis=-1, keepdims=True)
    y = (x - mean) / jnp.sqrt(var + 1e-5) * p["norm"]["scale"][None] + p["norm"]["bias"][None]
    return x + jax.nn.gelu(y @ p["up"]["kernel"]) @ p["down"]["kernel"]


def test_tweaked_norms_bring_the_output_back() -> None:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape) / np.sqrt(shape[0]), jnp.float32)

    blocks = [
        {
            "norm": {"scale": jnp.ones(64), "bias": jnp.zeros(64)},
            "up": {"kernel": normal(64, 128)},
            "down": {"kernel": normal(128, 64)},
        }
        for _ in range(2)
    ]
    quantized = [ws.on("kernel", ws.quant.rtn(bits=2, symmetric=False))(b) for b in blocks]
    applies = [residual] * 2
    new = ws.quant.norm_tweak(applies, blocks, quantized, [jnp.asarray(SEEN[:512])], lr=3e-3, steps=100)

    @jax.jit
    def out(params: list[Any]) -> jax.Array:
        x = jnp.asarray(TEST)
        for p in params:
            x = residual(p, x)
        return x

    want, *found = (np.asarray(out(ws.materialize(p))) for p in (blocks, quantized, new))
    before, after = (np.sum((x - want) ** 2) / np.sum(want**2) for x in found)
    assert after < 0.95 * before, (before, after)
    for old, now in zip(quantized, new, strict=True):
        np.testing.assert_array_equal(old["up"]["kernel"].codes, now["up"]["kernel"].codes)
        assert not np.array_equal(old["norm"]["scale"], now["norm"]["scale"])
    same = ws.quant.norm_tweak(applies, blocks, blocks, [jnp.asarray(SEEN[:512])], lr=3e-3, steps=5)
    jax.tree.map(np.testing.assert_array_equal, same, blocks)  # nothing to mend, nothing changes


def test_the_loss_of_channels_sees_means_and_variances_alone() -> None:
    x = jnp.asarray(TEST[:50])
    assert float(channel_distribution_loss(x, x[::-1])) < 1e-6
    want = np.mean(np.abs(x.mean(0) - 2 * x.mean(0)) + np.abs(x.var(0) - 4 * x.var(0)))
    np.testing.assert_allclose(channel_distribution_loss(x, 2 * x), want, rtol=1e-5)
    names = {"h/ln_1/weight": True, "LayerNorm_0/scale": True, "input_layernorm/weight": True, "mlp/bias": False}
    specs = {n: ws.core.select.Spec(n, (4,), jnp.float32, ()) for n in names}
    assert {n: norms(n, s) for n, s in specs.items()} == names
    with pytest.raises(ws.WspaceError, match="no leaf of any block is a norm"):
        ws.quant.norm_tweak([lambda p, x: x @ p["k"]], [{"k": jnp.eye(2)}], [{"k": jnp.eye(2)}], [jnp.ones((3, 2))])


@pytest.mark.parametrize("variable", ["choice", "divisor", "offset", "weight"])
def test_every_variable_of_the_study_lowers_the_layers_error(net: Any, variable: Any) -> None:
    kernel = {"kernel": net["params"]["hidden0"]["kernel"]}
    gram = {"kernel": jnp.asarray(SEEN.T @ SEEN / len(SEEN))}
    made = [
        t(kernel, **({"gram": gram} if "gram" in t.needs else {}))["kernel"].materialize() - kernel["kernel"]
        for t in (ws.quant.rtn(bits=3), ws.quant.gradient_based(variable, bits=3, steps=200, lr=0.02))
    ]
    rtn, learned = (float(np.sum((TEST @ np.asarray(e)) ** 2)) for e in made)
    assert learned < 0.7 * rtn


def test_importance_is_the_sum_of_what_weights_and_slopes_make(net: Any) -> None:
    slopes = jax.tree.map(lambda x: jnp.cos(3 * x), net)
    found = ws.quant.gradient_importance(net, slopes)
    w = np.asarray(net["params"]["out"]["kernel"], np.float64)
    np.testing.assert_allclose(found["params/out/kernel"], np.sum(np.abs(w * np.cos(3 * w))), rtol=1e-5)
    assert len(found) == 6
    with pytest.raises(ws.WspaceError, match="no leaf has a gradient"):
        ws.quant.gradient_importance(net, {"other": jnp.ones(2)})
