"""Deleted, a format could have other levels than it is known by, or a code could be not the nearest one."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import wspace as ws
from wspace.core.errors import ShapeError, WspaceError
from wspace.core.stored import facts_of, from_parts, parts_of
from wspace.quant import QTensor
from wspace.quant.formats import NAMES, named
from wspace.quant.levels import Levels

RNG = np.random.default_rng(0)
W = (RNG.standard_normal((64, 6)) * 10.0 ** RNG.integers(-3, 3, (1, 6))).astype(np.float32)
LEVELED = [n for n in NAMES if isinstance(named(n), Levels) and "positive" not in n]
DTYPES = {
    "fp4": "float4_e2m1fn",
    "fp6_e2m3": "float6_e2m3fn",
    "fp6_e3m2": "float6_e3m2fn",
    "fp8_e4m3": "float8_e4m3fn",
    "fp8_e5m2": "float8_e5m2",
}


def quantized(w: Any, grid: str, **settings: Any) -> QTensor:
    return ws.quant.rtn(grid=grid, **settings)({"kernel": jnp.asarray(w)})["kernel"]


@pytest.mark.parametrize("name", ["fp4", "fp6_e2m3", "fp6_e3m2"])
def test_small_floats_have_all_numbers_of_their_dtype(name: str) -> None:
    grid = named(name)
    dtype = np.dtype(getattr(ml_dtypes, DTYPES[name]))
    every = np.arange(2**grid.bits, dtype=np.uint8).view(dtype).astype(np.float64)
    np.testing.assert_array_equal(grid.levels, np.unique(every))


def test_nf4_is_the_published_table() -> None:
    published = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635]
    published += [-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725]
    published += [0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941]
    published += [0.7229568362236023, 1.0]
    np.testing.assert_allclose(named("nf4").levels, published, rtol=0, atol=3e-7)


@pytest.mark.parametrize("group", [None, 16, "tensor", (16, 3)], ids=str)
@pytest.mark.parametrize("name", LEVELED)
def test_every_code_is_the_nearest_level(name: str, group: Any) -> None:
    q, grid = quantized(W, name, group=group), named(name)
    down, across = (64 // q.scale.shape[0], 6 // q.scale.shape[1])
    scale = np.asarray(q.scale, np.float64) * np.asarray(q.scales.get("over", 1.0), np.float64)
    scale = np.kron(scale, np.ones((down, across)))
    levels = np.array(grid.levels)
    got = np.asarray(q.materialize(), np.float64) / scale
    x = np.clip(W / scale, levels[0], levels[-1])
    if grid.borders:  # nearest in the logarithm, and of the sign
        away = np.abs(np.log2(np.abs(x))[..., None] - np.log2(np.abs(levels))) + 100 * (x[..., None] * levels < 0)
    else:
        away = np.abs(x[..., None] - levels)
    chosen = np.abs(got[..., None] - levels).argmin(-1)
    np.testing.assert_allclose(got, levels[chosen], rtol=1e-6, atol=1e-7)
    best = away.min(-1)
    assert np.all(np.take_along_axis(away, chosen[..., None], -1)[..., 0] <= best + 1e-5)


@pytest.mark.parametrize("name", ["fp8_e4m3", "fp8_e5m2"])
def test_fp8_is_the_cast_of_the_scaled_weight(name: str) -> None:
    q = quantized(W, name)
    dtype = np.dtype(getattr(ml_dtypes, DTYPES[name]))
    scale = np.abs(W).max(0) / np.float32(ml_dtypes.finfo(dtype).max)
    want = (W / scale).astype(dtype).astype(np.float32) * scale
    error = np.abs(np.asarray(q.materialize()) - want)
    assert np.mean(error > 1e-6 * np.abs(W).max(0)) < 0.01  # a product with the reciprocal may round otherwise
    assert np.all(np.abs(W - np.asarray(q.materialize())) <= np.abs(W).max(0) * 2.0**-3)


@pytest.mark.parametrize("name", ["mxfp4", "mxfp8_e4m3", "upfp4"])
def test_shared_exponents(name: str) -> None:
    """OCP: 2^(floor(log2 max) - emax), which may clip; "up": the next power of two, which never does."""
    q = quantized(W, name, group=32)
    most = np.abs(W).reshape(2, 32, 6).max(1)
    emax = {"mxfp4": 2, "mxfp8_e4m3": 8, "upfp4": 2}[name]
    wanted = 2.0 ** np.ceil(np.log2(most / 6)) if name == "upfp4" else 2.0 ** (np.floor(np.log2(most)) - emax)
    np.testing.assert_array_equal(q.scale, wanted)
    if name == "upfp4":
        assert np.all(np.abs(np.asarray(q.materialize())).reshape(2, 32, 6).max(1) <= 6 * wanted)


def test_ratios_of_scales_are_powers_of_two_and_clip_nothing() -> None:
    """ZeroQuant-FP's M2: the largest scale of an output over 2^floor(log2(largest / exact))."""
    q = quantized(W, "ratiofp4", group=16)
    exact = np.abs(W).reshape(4, 16, 6).max(1).astype(np.float64) / 6
    want = exact.max(0) / 2.0 ** np.floor(np.log2(exact.max(0) / exact) + 1e-6)
    got = np.asarray(q.scales["scale"]) * np.asarray(q.scales["over"])
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert np.all(got >= exact * (1 - 1e-6))


def test_floating_grids_and_their_scales_on_weights_with_long_tails() -> None:
    """ZeroQuant-FP: FP4 beats INT4 on bell-shaped weights; ratios of scales cost less than powers of two."""
    w = np.random.default_rng(1).standard_t(5, (256, 64)).astype(np.float32)
    names = ("fp4", "ratiofp4", "upfp4", "int4")
    error = {n: np.linalg.norm(w - np.asarray(quantized(w, n, group=32).materialize())) for n in names}
    assert error["fp4"] < error["ratiofp4"] < error["upfp4"] and error["fp4"] < 0.9 * error["int4"], error


def test_an_affine_grid_reaches_from_the_smallest_to_the_largest_weight() -> None:
    w = np.array([[5.0, -1.0], [6.5, -1.0], [5.6, -1.0], [8.0, -1.0]], np.float32)
    q = quantized(w, "affine2")
    np.testing.assert_array_equal(q.codes[:, 0], [0, 2, 1, 3])  # 1.5 steps go to the even code
    np.testing.assert_allclose(np.asarray(q.materialize()), [[5, -1], [7, -1], [6, -1], [8, -1]])


def test_nv_scales_are_e4m3_under_one_of_the_matrix() -> None:
    q = quantized(W, "nvfp4", group=16)
    over = np.abs(W).max() / (6 * 448)
    np.testing.assert_allclose(np.asarray(q.scales["over"]).ravel(), over, rtol=1e-6)
    rounded = (np.abs(W).reshape(4, 16, 6).max(1) / 6 / over).astype(ml_dtypes.float8_e4m3fn).astype(float)
    np.testing.assert_allclose(q.scale, np.where(rounded == 0, 2.0**-6, rounded), rtol=0.13)  # or its neighbour
    np.testing.assert_array_equal(q.scale, np.asarray(q.scale).astype(ml_dtypes.float8_e4m3fn).astype(float))


@pytest.mark.parametrize("name", NAMES)
def test_a_file_gives_the_node_back_and_size_is_counted_in_bits(name: str) -> None:
    q = quantized(W, name, group=16)
    facts = facts_of(q)
    parts = {k: np.asarray(v) for k, v in parts_of(q).items()}
    back = from_parts(parts, facts)
    np.testing.assert_array_equal(np.asarray(back.materialize()), np.asarray(q.materialize()))
    assert back.format == name and back.codes.dtype == q.codes.dtype
    if name == "kmeans3":
        assert q.stored_bits() == W.size * 3 + 4 * 6 * 8 * 32
        return
    scale_bits = {"mx": 8, "nv": 8, "ra": 8, "af": 64}.get(name[:2], 32)
    zero = q.grid.bits if "asymmetric" in name else 0
    over = {"nv": 32, "po": 32, "ed": 32 * q.scale.size, "ra": 32 * W.shape[1]}.get(name[:2], 0)
    assert q.stored_bits() == W.size * q.grid.bits + q.scale.size * (scale_bits + zero) + over


@pytest.mark.parametrize("bits", range(2, 9))
def test_packed_codes_take_their_bits(bits: int) -> None:
    q = ws.quant.rtn(bits=bits)({"kernel": jnp.asarray(W)})["kernel"]
    codes = parts_of(q)["codes"]
    width = {2: 2, 4: 4}.get(bits, 8)
    assert codes.size * width == W.size * bits
    back = from_parts({k: np.asarray(v) for k, v in parts_of(q).items()}, facts_of(q))
    np.testing.assert_array_equal(back.codes, q.codes)


def test_the_mean_scales_half_steps() -> None:
    """OFQ's code: n = 2^(b-1), c = clip(w / s, -1, 1 - 1e-6), s (round(c n - 1/2) + 1/2) / n with s = 2 mean|w|."""
    q = quantized(W, "statsq2")
    s = 2 * np.abs(W.astype(np.float64)).mean(0)
    want = s * (np.round(np.clip(W / s, -1, 1 - 1e-6) * 2 - 0.5) + 0.5) / 2
    np.testing.assert_allclose(q.materialize(), want, rtol=2e-6)
    assert all(len(np.unique(column)) == 4 and np.all(column != 0) for column in np.asarray(q.materialize()).T)


def test_odd_groups_and_names_are_refused() -> None:
    with pytest.raises(ShapeError, match="kernel has 6 outputs, which a block of 4 does not divide"):
        quantized(W, "nf4", group=(16, 4))
    with pytest.raises(WspaceError, match=r"no grid 'nf5'.* Did you mean 'nf4'"):
        quantized(W, "nf5")


@pytest.mark.parametrize("name", NAMES)
def test_zeros_and_huge_weights_stay_finite(name: str) -> None:
    w = np.zeros(W.shape, np.float32)  # of the shape of the other tests: their programs again
    w[:, 1], w[:, 2] = 1e38 * np.sign(RNG.standard_normal(len(W))), 1e-39
    made = np.asarray(quantized(w, name, group=16).materialize())
    assert np.isfinite(made).all() and np.all(np.abs(made[:, 0]) < 1e-30)


@pytest.mark.parametrize(("name", "step"), [("logsqrt2_4_positive", 0.5), ("log2_4_positive", 1.0)])
def test_probabilities_on_powers_of_two(name: str, step: float) -> None:
    """RepQ-ViT: q = round(-2 log2(a)), a^ = 2^(-q / 2): off by at most 2^(1/4) - 1, where log2 is off by sqrt 2 - 1."""
    a = np.exp2(-RNG.uniform(0, 14.4 * step, (4096, 1))).astype(np.float32)
    a[0] = 1.0
    made = np.asarray(quantized(a, name).materialize(), np.float64)
    np.testing.assert_allclose(made, np.exp2(-step * np.round(-np.log2(a.astype(np.float64)) / step)), rtol=1e-6)
    error = np.max(np.abs(made / a - 1))
    assert 0.95 * (2 ** (step / 2) - 1) < error <= (2 ** (step / 2) - 1) * (1 + 1e-5)
    assert np.all(np.asarray(quantized(np.array([[1.0], [1e-6], [0.0]]), name).materialize())[1:] == 0)


def test_k_means_is_lloyds_and_exact_for_few_values() -> None:
    few = np.array([[-3.0], [1.2], [-0.9], [1.2], [-3.0], [4.0]], np.float32)
    np.testing.assert_allclose(quantized(few, "kmeans2").materialize(), few, rtol=1e-6)
    q = quantized(W, "kmeans3")
    tables, every = np.asarray(q.scales["table"])[0], np.asarray(q.materialize())
    for column, centers, made in zip(W.T, tables, every.T, strict=True):
        nearest = np.abs(column[:, None] - centers).argmin(1)
        np.testing.assert_allclose(made, centers[nearest], rtol=1e-6)
        means = [column[nearest == k].mean() if np.any(nearest == k) else c for k, c in enumerate(centers)]
        moved = np.sum((column - np.array(means)[nearest]) ** 2)
        # nearly a fixed point of Lloyd's step
        assert moved * (1 - 1e-6) <= np.sum((column - made) ** 2) <= 1.05 * moved
        uniform = np.asarray(quantized(column[:, None], "int3").materialize())[:, 0]
        assert np.sum((column - made) ** 2) < np.sum((column - uniform) ** 2)
