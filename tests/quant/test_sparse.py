"""Deleted, super weights could be missed or not put back, and an integral could not add up to the loss."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wspace as ws
from wspace.core.containers import as_params
from wspace.data.digits import load

RNG = np.random.default_rng(0)


def mlp(p: Any, x: Any) -> Any:
    h = x @ p["up"]["kernel"] + p["up"]["bias"][None]
    return jnp.maximum(h, 0) @ p["down"]["kernel"]


def planted() -> dict[str, Any]:
    """A hidden unit that is always large, and one huge weight that reads it."""
    up, down = RNG.standard_normal((8, 16)) / 3, RNG.standard_normal((16, 6)) * 0.02
    bias = np.zeros(16)
    bias[11] = 40.0
    down[11, 4], down[3, 2] = 2.0, 0.3
    return {
        "up": {"kernel": jnp.asarray(up, jnp.float32), "bias": jnp.asarray(bias, jnp.float32)},
        "down": {"kernel": jnp.asarray(down, jnp.float32)},
    }


def test_the_planted_super_weight_is_found_and_no_other() -> None:
    params, x = planted(), jnp.asarray(RNG.standard_normal((5, 8)), jnp.float32)
    found = ws.quant.find_super_weights(mlp, params, x, "down")
    assert found == [(("down", "kernel"), (11, 4))]
    assert ws.quant.find_super_weights(mlp, params, x, "down", threshold=100.0) == []
    scores = ws.quant.super_scores(params, found)
    assert float(scores["down"]["kernel"][11, 4]) == 2.0 and float(jnp.sum(scores["down"]["kernel"])) == 2.0
    torch = {"up": {"weight": params["up"]["kernel"].T}, "down": {"weight": params["down"]["kernel"].T}}

    def other(p: Any, x: Any) -> Any:
        return mlp({"up": {"kernel": p["up"]["weight"].T, "bias": params["up"]["bias"]}, "down": {
            "kernel": p["down"]["weight"].T}}, x)  # fmt: skip

    assert ws.quant.find_super_weights(other, torch, x, "down") == [(("down", "weight"), (11, 4))]


def test_clipping_helps_if_the_super_weight_is_put_back_and_ruins_the_layer_if_not() -> None:
    """256 x 256 of sigma 0.02 with one entry of 2, whose input is 20 times the others; four bits, one scale."""
    rng = np.random.default_rng(1)
    w = (0.02 * rng.standard_normal((256, 256))).astype(np.float32)
    w[7, 9] = 2.0
    x = rng.standard_normal((200, 256))
    x[:, 7] *= 20
    score = {"kernel": jnp.zeros((256, 256)).at[7, 9].set(1)}
    then = ws.quant.rtn(4, "tensor", symmetric=False)

    def off(q: Any) -> float:
        return float(np.mean((x @ (np.asarray(q["kernel"].materialize(), np.float64) - w)) ** 2))

    plain = off(then({"kernel": w}))
    kept = {z: off(ws.quant.super_weight(1, z, then)({"kernel": w}, score=score)) for z in (3.0, 9.0)}
    lost = off(ws.quant.super_weight(0, 3.0, then)({"kernel": w}, score=score))
    assert kept[3.0] < 0.05 * plain and kept[9.0] < 0.2 * plain and lost > 5 * plain, (plain, kept, lost)


@pytest.fixture(scope="module")
def trained() -> tuple[Any, Any, Any]:
    """Digits: a small network, trained; its loss, and the data."""
    images, labels = load("train")
    x, y = jnp.asarray(images.reshape(-1, 64), jnp.float32), jnp.asarray(labels, jnp.int32)
    x = x / jnp.max(x)
    rng = np.random.default_rng(2)
    params = {
        f"layer{k}": {
            "kernel": jnp.asarray(rng.standard_normal(s) / np.sqrt(s[0]), jnp.float32),
            "bias": jnp.zeros(s[1]),
        }
        for k, s in enumerate(((64, 32), (32, 10)))
    }

    def loss(p: Any, batch: Any) -> Any:
        x, y = batch
        h = jnp.maximum(x @ p["layer0"]["kernel"] + p["layer0"]["bias"][None], 0)
        z = jax.nn.log_softmax(h @ p["layer1"]["kernel"] + p["layer1"]["bias"][None])
        return -jnp.mean(jnp.take_along_axis(z, y[:, None], 1))

    @jax.jit
    def train(params: Any) -> Any:
        def step(_: Any, p: Any) -> Any:
            return jax.tree.map(lambda w, g: w - 0.5 * g, p, jax.grad(loss)(p, (x, y)))

        return jax.lax.fori_loop(0, 400, step, params)

    return train(params), loss, (x, y)


def test_the_integral_adds_up_to_the_change_of_the_loss_and_slopes_do_not(trained: Any) -> None:
    """Two bits a tensor: the sum over weights at 4, 8 and 32 midpoints, and by the slope alone."""
    params, loss, batch = trained
    q = ws.materialize(ws.on("kernel", ws.quant.rtn(2, "tensor"))(params))
    change = float(loss(q, batch) - loss(params, batch))

    def total(points: int) -> float:
        made = as_params(ws.quant.pqi(loss, params, q, [batch], points)).leaves
        return sum(float(jnp.sum(x)) for x in made.values())

    off = [abs(total(points) - change) for points in (4, 8, 32)]
    assert off[2] < 5e-3 * change and off[0] < 0.1 * change and off[2] <= off[0], (off, change)
    slope = jax.grad(loss)(params, batch)
    first = sum(float(jnp.sum(g * (b - a))) for g, a, b in zip(*map(jax.tree.leaves, (slope, params, q)), strict=True))
    assert abs(first - change) > 0.5 * change


def test_weights_of_largest_integral_are_worth_more_bits_than_large_ones(trained: Any) -> None:
    """One in a hundred weights of the two-bit network back in full precision, by three scores."""
    params, loss, batch = trained
    then = ws.quant.rtn(2, "tensor")
    q = ws.on("kernel", then)(params)
    integral = ws.quant.pqi(loss, params, q, [batch], 16)
    away = jax.tree.map(lambda a, b: a - b, ws.materialize(q), params)

    def restored(score: Any) -> float:
        """Entries back on top of the same codes."""
        flat = {p: jnp.abs(x) for p, x in as_params(score).leaves.items()}
        out = {}
        for path, w in as_params(params).leaves.items():
            now = as_params(ws.materialize(q)).leaves[path]
            mask = ws.stats.quantile.largest_mask(flat[path], round(0.01 * w.size))
            out[path] = jnp.where(mask, w, now)
        return float(loss(as_params(params).rebuild(out), batch))

    by_integral, by_size, by_error = (restored(s) for s in (integral, params, away))
    assert by_integral < min(by_size, by_error) < float(loss(ws.materialize(q), batch)), (
        by_integral,
        by_size,
        by_error,
    )


def test_requant_goes_on_from_what_it_kept(trained: Any) -> None:
    params, loss, batch = trained
    then = ws.quant.rtn(2, group=16)
    kernels = {k: {"kernel": v["kernel"]} for k, v in params.items()}

    def on_kernels(p: Any, batch: Any) -> Any:
        return loss({k: {**params[k], **v} for k, v in p.items()}, batch)

    plain = float(on_kernels(ws.materialize(then(kernels)), batch))
    made = ws.quant.requant(on_kernels, kernels, then, [batch], share=0.05, rounds=2, points=8)
    node = made["layer0"]["kernel"]
    assert node.values.shape == (round(0.05 * 64 * 32),)
    np.testing.assert_array_equal(
        node.values, np.asarray(kernels["layer0"]["kernel"])[np.asarray(node.inputs), np.asarray(node.outputs)]
    )
    assert float(on_kernels(ws.materialize(made), batch)) < 0.8 * plain
