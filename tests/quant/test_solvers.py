"""Deleted, a calibrated solver could be no better than rounding, or miss what its paper says of it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import wspace as ws
from tests.stats.grams import gram
from wspace.quant.awq import awq_array, output_error
from wspace.quant.formats import named
from wspace.quant.grid import Block

INPUTS, OUTPUTS = 64, 24
PLANTED = [3, 17, 29, 40, 41, 60]


def layer(seed: int, tokens: int = 1024, large: float = 20.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, and inputs `[tokens, in]` that vary in few directions and of which six are large; others held out."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((INPUTS // 4, INPUTS))
    x = rng.standard_normal((2 * tokens, INPUTS // 4)) @ mix / 2 + rng.standard_normal((2 * tokens, INPUTS))
    x[:, PLANTED] *= large
    w = rng.standard_normal((INPUTS, OUTPUTS)).astype(np.float32)
    return w, *np.split(x, 2)  # type: ignore[return-value]


def solved(t: ws.Transform, w: np.ndarray, x: np.ndarray) -> Any:
    every = {"gram": gram(x), "abs_mean": np.abs(x).mean(0), "abs_max": np.abs(x).max(0)}
    return t({"kernel": w}, **{n: {"kernel": every[n]} for n in t.needs})["kernel"]


def error(node: Any, w: np.ndarray, x: np.ndarray) -> float:
    """Of the output, relative."""
    return float(np.mean((x @ (np.asarray(node.materialize(), np.float64) - w)) ** 2) / np.mean((x @ w) ** 2))


def test_awq_is_never_worse_than_rounding_and_far_better_where_few_inputs_are_large() -> None:
    for seed in range(3):
        w, x, held_out = layer(seed)
        plain, awq, clipped = (
            solved(t, w, x)
            for t in (
                ws.quant.rtn(3, group=32, symmetric=False),
                ws.quant.awq(3, group=32),
                ws.quant.awq(3, group=32, scale="output"),
            )
        )
        assert error(awq, w, x) <= error(plain, w, x) * (1 + 1e-5)
        assert error(awq, w, held_out) < 0.6 * error(plain, w, held_out)
        assert error(clipped, w, x) < error(awq, w, x)


def test_a_part_of_the_outputs_ranks_ratios_nearly_as_all_do() -> None:
    """An eighth of 192 outputs picks another ratio than all at times, whose error is hardly larger."""
    rng = np.random.default_rng(8)
    _, x, _ = layer(0)
    w, g, size = rng.standard_normal((INPUTS, 192)).astype(np.float32), gram(x), np.abs(x).mean(0)
    given = (jnp.asarray(w), jnp.asarray(g, jnp.float32), jnp.asarray(size, jnp.float32))
    form = (named("int3_asymmetric"), Block(32, 1))
    part, every = (awq_array(*given, *form, first=first) for first in (24, None))
    errors = [float(output_error(*given[:2], scale, *form)) for scale in (part, every, jnp.ones(INPUTS))]
    assert errors[1] <= errors[0] < 1.01 * errors[1] < 0.5 * errors[2], errors


def test_awq_hands_scaled_weights_and_inputs_on_to_another_solver() -> None:
    w, x, held_out = layer(1)
    both = solved(ws.quant.awq(3, group=32, then=ws.quant.gptq(3, group=32, symmetric=False)), w, x)
    assert error(both, w, held_out) < error(solved(ws.quant.awq(3, group=32), w, x), w, held_out)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_smoothing_changes_nothing_before_it_is_rounded_and_moves_the_range_to_the_weights(alpha: float) -> None:
    w, x, _ = layer(2)
    node = solved(ws.quant.smoothquant(alpha), w, x)
    s = 1 / np.asarray(node.gain, np.float64)
    np.testing.assert_allclose((x / s) @ (w * s[:, None]), x @ w, rtol=1e-9, atol=1e-9)
    largest_input, largest_weight = np.abs(x / s).max(0), np.abs(w * s[:, None]).max(1)
    if alpha == 0:  # all weights reach to 1
        np.testing.assert_allclose(largest_weight, 1, rtol=1e-5)
    elif alpha == 1:
        np.testing.assert_allclose(largest_input, 1, rtol=1e-5)
    else:
        np.testing.assert_allclose(largest_input, largest_weight, rtol=1e-5)


def test_smoothing_lets_activations_of_unequal_size_be_eight_bits() -> None:
    """W8A8, one scale for all activations, as a static runtime has: the smoothed product is nearer."""
    w, x, _ = layer(3, large=60)

    def eight(x: np.ndarray) -> np.ndarray:
        step = np.abs(x).max() / 127
        return np.round(x / step) * step

    node = solved(ws.quant.smoothquant(0.5), w, x)
    gain = np.asarray(node.gain, np.float64)
    plain = eight(x) @ np.asarray(ws.quant.rtn(8)({"kernel": w})["kernel"].materialize())
    smooth = eight(x * gain) @ np.asarray(node.base.materialize())
    off = [np.mean((y - x @ w) ** 2) for y in (plain, smooth)]
    assert off[1] < 0.2 * off[0], off


def test_owq_finds_the_planted_inputs_and_needs_them() -> None:
    """Three bits, six large inputs: with them kept the error falls far below GPTQ's; six others would not help."""
    w, x, held_out = layer(4)
    rtn, gptq, owq = (solved(t, w, x) for t in (ws.quant.rtn(3), ws.quant.gptq(3), ws.quant.owq(3, keep=6)))
    assert np.sort(np.asarray(owq.index)).tolist() == PLANTED
    assert error(owq, w, held_out) < 0.35 * error(gptq, w, held_out) < 0.35 * error(rtn, w, held_out)


def test_owq_with_nothing_kept_is_gptq_and_with_everything_kept_the_layer_itself() -> None:
    w, x, _ = layer(5)
    none, gptq = (solved(t, w, x) for t in (ws.quant.owq(3, group=16, keep=0), ws.quant.gptq(3, group=16)))
    np.testing.assert_array_equal(none.base.codes, gptq.codes)
    np.testing.assert_array_equal(solved(ws.quant.owq(3, keep=INPUTS), w, x).materialize(), w)
    with pytest.raises(ws.WspaceError, match="kernel has 64 inputs, of which keep=65"):
        solved(ws.quant.owq(3, keep=65), w, x)


def test_coordinate_descent_never_goes_up_and_ends_where_no_coordinate_gains() -> None:
    w, x, _ = layer(6, large=3.0)
    first = solved(ws.quant.rtn(3, group=16), w, x)
    errors = [error(first, w, x)]
    for sweeps in (1, 2, 4, 30):
        node = solved(ws.quant.quantease(3, group=16, sweeps=sweeps, start=ws.quant.rtn(3, group=16)), w, x)
        errors.append(error(node, w, x))
    assert all(b <= a * (1 + 1e-5) for a, b in pairwise(errors)), errors
    assert errors[-1] < 0.5 * errors[0]
    q, scale = np.asarray(node.materialize(), np.float64), np.repeat(np.asarray(node.scale, np.float64), 16, 0)
    slope, curve = 2 * gram(x) @ (q - w), np.diag(gram(x))[:, None]
    codes = np.asarray(node.codes, np.int64)
    for move in (-1, 1):
        gain = move * scale * slope + scale**2 * curve
        inside = (codes + move >= -4) & (codes + move <= 3)
        assert np.all(gain[inside] >= -1e-4 * np.abs(curve * scale**2)[inside])


def test_quantease_ends_below_gptq_as_its_paper_says() -> None:
    for seed in range(3):
        w, x, _ = layer(seed, large=3.0)
        gptq = ws.quant.gptq(3, group=16)
        errors = [error(solved(t, w, x), w, x) for t in (gptq, ws.quant.quantease(3, 16, start=gptq))]
        assert errors[1] < 0.97 * errors[0], errors


def test_sparse_outliers_lower_the_error_at_their_price_in_bits() -> None:
    w, x, _ = layer(7, large=3.0)
    w[np.random.default_rng(0).integers(0, INPUTS, 12), np.arange(12)] *= 12
    plain, sparse = (solved(ws.quant.quantease(3, sweeps=8, outliers=o), w, x) for o in (0.0, 0.02))
    assert error(sparse, w, x) < 0.4 * error(plain, w, x)
    assert sparse.stored_bits() - plain.stored_bits() == round(0.02 * w.size) * (32 + 2 * 16)


def test_spqr_keeps_the_weights_that_spoil_their_group_and_little_else_matters() -> None:
    w, *_ = layer(9)
    x, held_out = np.random.default_rng(9).standard_normal((2, 512, INPUTS)) * np.linspace(1, 2, INPUTS)
    rows, columns = np.random.default_rng(1).integers(0, INPUTS, 8), np.arange(8)
    w[rows, columns] = 15.0
    gptq, spqr = (
        solved(t, w, x) for t in (ws.quant.gptq(3, 16, symmetric=False), ws.quant.spqr(3, 16, outliers=16 / w.size))
    )
    kept = set(zip(np.asarray(spqr.inputs).tolist(), np.asarray(spqr.outputs).tolist(), strict=True))
    assert len(kept) == 16 and kept > set(zip(rows.tolist(), columns.tolist(), strict=True))
    assert error(spqr, w, held_out) < 0.6 * error(gptq, w, held_out)


def test_spqr_with_nothing_kept_is_gptq() -> None:
    w, x, _ = layer(9)
    none, gptq = (solved(t, w, x) for t in (ws.quant.spqr(3, 16, outliers=0.0), ws.quant.gptq(3, 16, symmetric=False)))
    np.testing.assert_array_equal(none.base.codes, gptq.codes)


@pytest.mark.parametrize("bits", [2, 4])
def test_hqq_lessens_the_norm_it_is_for(bits: int) -> None:
    w = np.random.default_rng(2).standard_t(4, (64, 32)).astype(np.float32)
    for p in (0.5, 0.7, 1.0):
        start = ws.quant.rtn(grid=f"affine{bits}", group=16)({"kernel": w})["kernel"]
        node = ws.quant.hqq(bits, group=16, p=p)({"kernel": w})["kernel"]
        before, after = (
            (np.abs(np.asarray(q.materialize(), np.float64) - w) ** p).reshape(4, 16, 32).sum(1) for q in (start, node)
        )
        assert np.all(after <= before * (1 + 1e-5)) and after.sum() < 0.995 * before.sum()


def test_adadim_takes_the_axis_that_the_weights_ask_for_and_not_the_activations() -> None:
    """Its paper's point: large inputs of the WEIGHTS want scales of their own; large activations alone do not."""
    w, x, _ = layer(10, large=1.0)
    w = np.tile(w, (1, 3))[:, :64]
    inputs, outputs = w.copy(), w.copy()
    inputs[PLANTED] *= 12
    outputs[:, PLANTED] *= 12
    loud = x.copy()
    loud[:, PLANTED] *= 20
    both = {n: ws.quant.rtn(3, g, symmetric=False) for n, g in (("along", 16), ("across", (1, 16)))}
    for layer_, tokens, turned in ((inputs, x, True), (outputs, x, False), (w, loud, False)):
        node = solved(ws.quant.adadim(3, 16), layer_, tokens)
        errors = {n: error(solved(t, layer_, tokens), layer_, tokens) for n, t in both.items()}
        assert bool(node.turned) == turned
        np.testing.assert_allclose(error(node, layer_, tokens), min(errors.values()), rtol=1e-5)
        assert node.stored_bits() == w.size * 3 + w.size // 16 * (32 + 3) + 8


def test_adadim_solves_both_ways_with_gptq() -> None:
    w, x, _ = layer(11, large=3.0)
    w = np.tile(w, (1, 3))[:, :64] + 0.1 * w[:, :1]
    w[PLANTED] *= 12
    plain, node = (solved(ws.quant.adadim(3, 16, solver=s), w, x) for s in (ws.quant.rtn, ws.quant.gptq))
    ways = [solved(ws.quant.gptq(3, group, symmetric=False), w, x) for group in (16, (1, 16))]
    errors = [error(q, w, x) for q in ways]
    assert error(node, w, x) < 0.8 * error(plain, w, x)
    np.testing.assert_array_equal(node.materialize(), ways[int(np.argmin(errors))].materialize())


def test_a_correction_of_low_rank_leaves_the_later_singular_values() -> None:
    w = np.random.default_rng(3).standard_t(5, (48, 32)).astype(np.float32)
    then = ws.quant.rtn(grid="fp4", group=16)
    e = w - np.asarray(then({"kernel": w})["kernel"].materialize(), np.float64)
    values = np.linalg.svd(e, compute_uv=False)
    for rank in (1, 8, 32):
        node = ws.quant.lorc(rank, then)({"kernel": w})["kernel"]
        left = np.linalg.norm(w - np.asarray(node.materialize(), np.float64))
        np.testing.assert_allclose(left, np.sqrt(np.sum(values[rank:] ** 2)), atol=2e-5)
        assert node.stored_bits() == w.size * 4 + 3 * 32 * 32 + rank * (48 + 32) * 32


def test_gptaq_makes_up_for_changed_inputs_and_is_gptq_without_a_change() -> None:
    """Inputs that come scaled and mixed by earlier layers: the distance to the layer's output on the old ones."""
    w, x, held_out = layer(12, large=1.0)
    mix = np.eye(INPUTS) * 0.9 + 0.05 * np.random.default_rng(5).standard_normal((INPUTS, INPUTS))
    now, later = x @ mix, held_out @ mix

    def made(t: ws.Transform, x: np.ndarray) -> np.ndarray:
        sides = {"gram": {"kernel": now.T @ now / len(now)}, "cross": {"kernel": now.T @ x / len(now)}}
        node = t({"kernel": w}, **{n: sides[n] for n in t.needs})["kernel"]
        return np.asarray(node.materialize(), np.float64)

    plain, aware = (made(t, x) for t in (ws.quant.gptq(4, 16), ws.quant.gptaq(4, 16, strength=1.0)))
    off = [np.mean((later @ q - held_out @ w) ** 2) for q in (plain, aware)]
    assert off[1] < 0.7 * off[0], off
    np.testing.assert_allclose(made(ws.quant.gptaq(4, 16, strength=1.0), now), plain, rtol=1e-6)
