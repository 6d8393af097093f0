"""Deleted, codes of activations or of a cache could stand for other numbers, or a folded norm change the function."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wspace as ws
from wspace.core.errors import ShapeError, WspaceError
from wspace.quant import (
    Moments,
    distill_data,
    fake_quantize_activations,
    fold_channel_affine,
    int_matmul,
    past_only_attention,
    quantize_activations,
    quantize_kv,
    reparameterize_norm,
    static_scales,
)

RNG = np.random.default_rng(0)
X = RNG.standard_normal((12, 16)).astype(np.float32) * np.exp(RNG.standard_normal((1, 16))).astype(np.float32)


def spans(per: Any) -> list[tuple[slice, slice]]:
    """Which parts of X share a scale."""
    every, rows = slice(None), [slice(k, k + 1) for k in range(12)]
    if per == "tensor":
        return [(every, every)]
    if per == "token":
        return [(r, every) for r in rows]
    if per == "channel":
        return [(every, slice(k, k + 1)) for k in range(16)]
    return [(r, slice(k, k + per)) for r in rows for k in range(0, 16, per)]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("per", ["tensor", "token", "channel", 4])
def test_every_part_that_shares_a_scale_is_within_half_a_step(per: Any, symmetric: bool) -> None:
    made, farthest = np.asarray(fake_quantize_activations(jnp.asarray(X), 4, per, symmetric)), 0.0
    for rows, columns in spans(per):
        part = X[rows, columns].astype(np.float64)
        step = np.abs(part).max() / 7 if symmetric else (max(part.max(), 0) - min(part.min(), 0)) / 15
        assert np.all(np.abs(made[rows, columns] - part) <= step / 2 * (1 + 1e-5))
        farthest = max(farthest, np.max(np.abs(made[rows, columns] - part)) / step)
    assert farthest > 0.4
    slope = jax.grad(lambda x: fake_quantize_activations(x, 4, per, symmetric).sum())(jnp.asarray(X))
    np.testing.assert_array_equal(slope, 1)


def test_static_scales_are_those_of_the_range() -> None:
    low, high = jnp.asarray(X.min(0)), jnp.asarray(X.max(0))
    scales = static_scales(low, high, bits=8, per="channel", symmetric=False)
    codes, _ = quantize_activations(jnp.asarray(X), 8, "channel", False, scales=scales)
    dynamic, _ = quantize_activations(jnp.asarray(X), 8, "channel", False)
    np.testing.assert_array_equal(codes, dynamic)
    one = static_scales(low, high)["scale"]
    np.testing.assert_allclose(one, [[np.abs(X).max() / 127]], rtol=1e-6)
    clipped, _ = quantize_activations(jnp.asarray(3 * X), 8, "tensor", scales=static_scales(low, high))
    assert int(clipped.max()) in (127, -128) or int(clipped.min()) == -128


@pytest.mark.parametrize("x_symmetric", [True, False])
@pytest.mark.parametrize("w_symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_products_of_codes_are_exact(bits: int, x_symmetric: bool, w_symmetric: bool) -> None:
    """Against a product of Python's own integers, group by group."""
    w = RNG.standard_normal((16, 5)).astype(np.float32)
    q = ws.quant.rtn(bits, group=8, symmetric=w_symmetric)({"kernel": jnp.asarray(w)})["kernel"]
    codes, scales = quantize_activations(jnp.asarray(X), 8, "token", x_symmetric)
    got = np.asarray(int_matmul(codes, scales, q.codes, q.scales))
    cx = np.asarray(codes, object) - np.asarray(scales.get("zero", np.zeros((12, 1), np.int8)), object)
    zw = np.asarray(q.zero if q.zero is not None else np.zeros((2, 5), np.int8), object)
    cw = np.asarray(q.codes, object) - np.repeat(zw, 8, axis=0)
    sw, sx = np.asarray(q.scale, np.float64), np.asarray(scales["scale"], np.float64)
    want = sum((cx[:, g * 8 : g * 8 + 8] @ cw[g * 8 : g * 8 + 8]).astype(float) * sw[g] for g in (0, 1)) * sx
    np.testing.assert_allclose(got, want, rtol=0, atol=3e-7 * np.abs(want).max())
    dense = np.asarray(ws.quant.decode(codes, ws.quant.named("int8"), scales)) if x_symmetric else None
    if dense is not None:
        np.testing.assert_allclose(got, dense @ np.asarray(q.materialize()), rtol=0, atol=1e-5 * np.abs(want).max())


def test_what_does_not_fit_is_refused() -> None:
    codes, scales = quantize_activations(jnp.asarray(X), 8, "channel")
    with pytest.raises(ShapeError, match="quantize them per token or per tensor"):
        int_matmul(codes, scales, jnp.zeros((16, 5), jnp.int8), {"scale": jnp.ones((1, 5))})
    with pytest.raises(ShapeError, match="16 channels, which groups of 5 do not divide"):
        quantize_activations(jnp.asarray(X), 8, 5)
    with pytest.raises(WspaceError, match="no scales per 'row'"):
        quantize_activations(jnp.asarray(X), 8, "row")  # type: ignore[arg-type]


def attention(q: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    out = np.zeros_like(q)
    for h in range(len(q)):
        logits = keys[:, h] @ q[h] / np.sqrt(q.shape[-1])
        shares = np.exp(logits - logits.max())
        out[h] = shares / shares.sum() @ values[:, h]
    return out


def test_the_current_token_stays_exact() -> None:
    """WKVQuant: with nothing past it is plain attention; over many caches it errs less than a fully quantized one."""
    heads, dim, tokens = 2, 8, 6
    off: list[tuple[float, float]] = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        q, *kv = rng.standard_normal((1 + 2 * tokens, heads, dim)).astype(np.float32)
        keys, values = np.stack(kv[:tokens]), np.stack(kv[tokens:])
        exact = attention(q, keys, values)
        cached = [
            np.asarray(quantize_kv(jnp.asarray(x.reshape(tokens, -1)), 2, 8).materialize()) for x in (keys, values)
        ]
        k, v = (x.reshape(tokens, heads, dim) for x in cached)
        past = past_only_attention(*map(jnp.asarray, (q, keys[-1], values[-1], k[:-1], v[:-1])))
        off.append((float(np.sum((past - exact) ** 2)), float(np.sum((attention(q, k, v) - exact) ** 2))))
        if seed == 0:
            none = jnp.zeros((0, heads, dim))
            np.testing.assert_allclose(past_only_attention(q, keys[0], values[0], none, none), values[0], rtol=1e-6)
            whole = past_only_attention(*map(jnp.asarray, (q, keys[-1], values[-1], keys[:-1], values[:-1])))
            np.testing.assert_allclose(whole, exact, rtol=1e-5, atol=1e-6)
    ours, full = np.mean(off, axis=0)
    assert ours < full


def test_a_factor_for_each_channel_takes_outliers_out_and_folds_into_the_projection() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((64, 32)).astype(np.float32)
    kernel = rng.standard_normal((32, 16)).astype(np.float32) * np.where(np.arange(16) % 8 == 0, 20.0, 1.0).astype(
        np.float32
    )
    bias = rng.standard_normal(16).astype(np.float32)
    keys = x @ kernel + bias
    shift, factor = keys.mean(0), keys.std(0)
    plain, even = quantize_kv(jnp.asarray(keys), 4, 8), quantize_kv(jnp.asarray(keys), 4, 8, shift, factor)
    relative = [np.mean(((np.asarray(kv.materialize()) - keys) / factor) ** 2) for kv in (plain, even)]
    assert relative[1] < 0.2 * relative[0]
    w, b = fold_channel_affine(*map(jnp.asarray, (kernel, bias, shift, factor)))
    np.testing.assert_allclose(x @ np.asarray(w) + np.asarray(b), (keys - shift) / factor, rtol=0, atol=2e-5)
    nothing = quantize_kv(jnp.zeros((0, 16)), 4, 8)
    assert nothing.materialize().shape == (0, 16)


def test_one_scale_after_a_norm_gives_the_same_codes_and_outputs() -> None:
    rng = np.random.default_rng(2)
    normed = rng.standard_normal((50, 12))
    gain, bias = np.exp(rng.standard_normal(12)), rng.standard_normal(12)
    kernel, kernel_bias = rng.standard_normal((12, 7)), rng.standard_normal(7)
    x = normed * gain + bias
    scale, zero = (x.max(0) - x.min(0)) / 63, np.round(-x.min(0) / ((x.max(0) - x.min(0)) / 63)) - 32
    with jax.enable_x64(True):
        new = reparameterize_norm(*map(jnp.asarray, (gain, bias, kernel, kernel_bias, scale, zero)))
        y = normed * np.asarray(new.gain) + np.asarray(new.bias)
        np.testing.assert_allclose(y @ np.asarray(new.kernel) + np.asarray(new.kernel_bias), x @ kernel + kernel_bias)
        np.testing.assert_allclose(y / float(new.scale) + float(new.zero), x / scale + zero, atol=1e-12)


def test_distilled_data_has_the_statistics_that_norms_remember() -> None:
    """ZeroQ on a small conv net: the distance falls far below noise's, and ranges come nearer to those of real data."""
    rng = np.random.default_rng(3)
    kernels = [jnp.asarray(rng.standard_normal(s) * 0.3, jnp.float32) for s in ((3, 3, 1, 4), (3, 3, 4, 4))]

    def features(x: jax.Array) -> list[jax.Array]:
        seen = []
        for kernel in kernels:
            x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            seen.append(x)
            x = jax.nn.relu(x)
        return seen

    waves = np.cumsum(np.cumsum(rng.standard_normal((32, 8, 8, 1)), 1), 2)  # smooth, as images are
    real = jnp.asarray(
        (waves - waves.mean((1, 2, 3), keepdims=True)) / waves.std((1, 2, 3), keepdims=True), jnp.float32
    )
    stored = [Moments(z.mean((0, 1, 2)), z.std((0, 1, 2))) for z in features(real)]
    found = distill_data(features, stored, (8, 8, 8, 1), key=jax.random.key(0), steps=150, rate=0.1)
    assert float(found.losses[-1]) < 0.1 * float(found.losses[0])
    noise = jax.random.normal(jax.random.key(1), (8, 8, 8, 1))

    def off(x: jax.Array) -> float:
        return float(abs(jnp.abs(features(x)[1]).max() - jnp.abs(features(real)[1]).max()))

    assert off(found.x) < off(noise)
