"""Deleted, the loop of L2 compression could miss its ratio, or be worth no more than larger steps."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wspace as ws

Tree = dict[str, jax.Array]


def apply(p: Tree, batch: jax.Array) -> tuple[jax.Array, jax.Array]:
    out = batch @ p["kernel"] + p["bias"][None]
    return out, out


def error(p: Tree, true: Tree, x: jax.Array) -> float:
    return float(jnp.mean((apply(ws.materialize(p), x)[0] - apply(true, x)[0]) ** 2))


def test_the_ratio_is_reached_at_less_error_than_by_larger_steps_alone() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 64, 24)) * np.geomspace(3, 0.1, 24)  # most inputs hardly matter together
    x = jnp.asarray(x @ np.linalg.qr(rng.standard_normal((24, 24)))[0], jnp.float32)
    true = {"kernel": jnp.asarray(rng.standard_normal((24, 16)), jnp.float32), "bias": jnp.ones(16)}
    off = lambda out, batch: jnp.zeros(())  # noqa: E731  the features say it all
    tx = optax.adam(optax.cosine_decay_schedule(2e-2, 150)), optax.adam(optax.cosine_decay_schedule(1e-2, 300))
    told: list[str] = []
    made = ws.quant.l2_compress(
        apply, true, x, off, 10.0, rounds=2, steps=(150, 300), optimizers=tx, rate=3.0, features=1.0,
        progress=lambda done, halves, words: told.append(f"{done}/{halves}"),
    )  # fmt: skip
    codes = np.asarray(made.params["kernel"].codes)
    p = np.unique(codes, return_counts=True)[1] / codes.size
    np.testing.assert_allclose(made.bits, -codes.size * np.sum(p * np.log2(p)), rtol=1e-5)
    np.testing.assert_allclose(made.ratio, 32 * codes.size / made.bits, rtol=1e-6)
    # the weights move after the count was met
    assert made.ratio > 9.5 and told == ["1/4", "2/4", "3/4", "4/4"]
    np.testing.assert_array_equal(made.params["bias"], true["bias"])

    w = np.asarray(true["kernel"], np.float64)
    for step in np.geomspace(0.05, 2, 200):  # edge = step / 2: plain rounding, whose entropy falls with the step
        q = np.round(w / step)
        p = np.unique(q, return_counts=True)[1] / q.size
        if -q.size * np.sum(p * np.log2(p)) <= made.bits:
            break
    plain = {**true, "kernel": jnp.asarray(q * step, jnp.float32)}
    assert error(made.params, true, x[0]) < error(plain, true, x[0])


def test_misuse_is_named() -> None:
    for wrong in ({"ratio": 0.5}, {"rounds": 0}, {"bits": 9}):
        with pytest.raises(ws.WspaceError, match="l2_compress: "):
            ws.quant.l2_compress(apply, {"kernel": jnp.ones((2, 2))}, jnp.ones((1, 2, 2)), lambda *a: 0.0, **wrong)
