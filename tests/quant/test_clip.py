"""Deleted, a search could pass over a better scale, and a percentile could clip more weights than it says."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import wspace as ws
from tests.quant.grids import decoded, grid_of
from tests.stats.grams import activations, gram
from wspace.quant.clip import Percentile, Search
from wspace.quant.formats import named
from wspace.quant.grid import Block, fit, rounded

RNG = np.random.default_rng(0)
W = (RNG.standard_t(3, (64, 6)) * 10.0 ** RNG.integers(-3, 3, (1, 6))).astype(np.float32)
GRAM = gram(activations(RNG, 200, 64))


AWQ = Search(10, 0.5, of="output")


def made(w: np.ndarray, **settings: Any) -> Any:
    sides = {"gram": {"kernel": GRAM}} if settings.get("scale") in ("weighted", AWQ) else {}
    return ws.quant.rtn(**settings)({"kernel": jnp.asarray(w)}, **sides)["kernel"]


def errors(w: np.ndarray, q: Any, power: float, weigh: np.ndarray | float = 1.0) -> np.ndarray:
    """Per group of 16 inputs and output."""
    away = np.abs(np.asarray(q, np.float64) - w) ** power * weigh
    return away.reshape(4, 16, -1).sum(1)


@pytest.mark.parametrize("grid", ["int3", "int3_asymmetric", "nf4", "fp4", "ternary"])
@pytest.mark.parametrize("power", [2.0, 2.4])
def test_no_ratio_of_the_search_has_a_smaller_error_in_any_group(grid: str, power: float) -> None:
    got = errors(W, made(W, grid=grid, group=16, scale=Search(20, 0.3, power)).materialize(), power)
    chosen, block = named(grid), Block(16, 1)
    for ratio in 1 - 0.7 * np.arange(20) / 20:
        q = rounded(W, chosen, fit(W, chosen, block, jnp.float32(ratio)))
        assert np.all(got <= errors(W, q, power) * (1 + 1e-5)), ratio
    assert np.sum(got) < 0.95 * np.sum(errors(W, made(W, grid=grid, group=16).materialize(), power))


def test_a_weighted_search_lessens_the_weighted_error_and_only_that() -> None:
    weigh = np.diag(GRAM)[:, None]
    plain, weighted = (made(W, bits=3, group=16, scale=s).materialize() for s in ("mse", "weighted"))
    assert np.all(errors(W, weighted, 2, weigh) <= errors(W, plain, 2, weigh) * (1 + 1e-5))
    assert np.all(errors(W, plain, 2) <= errors(W, weighted, 2) * (1 + 1e-5))
    assert np.any(errors(W, weighted, 2, weigh) < errors(W, plain, 2, weigh) * (1 - 1e-3))


def test_a_search_by_outputs_takes_the_ratio_that_changes_the_groups_partial_output_least() -> None:
    """AWQ's clip: max (1 - k / 20), k = 0..9, by the squared error of what the group adds to the output."""
    got = np.asarray(made(W, bits=3, group=16, scale=AWQ).materialize())
    for start in range(0, 64, 16):
        part = slice(start, start + 16)
        tokens = np.linalg.cholesky(GRAM[part, part]).T  # inputs of this Gram matrix
        for o in range(6):
            w = W[part, o].astype(np.float64)
            tried = []
            for k in range(10):
                scale, zero = grid_of(w[:, None] * (1 - k / 20), 3, True)
                q = decoded(w[:, None], scale, zero, 3)[:, 0]
                tried.append((np.sum((tokens @ (q - w)) ** 2), k, q))
            np.testing.assert_allclose(got[part, o], min(tried, key=lambda t: t[:2])[2], rtol=2e-6)


@pytest.mark.parametrize(("fraction", "clipped"), [(1.0, 0), (0.95, 3), (0.75, 16)])
@pytest.mark.parametrize("group", [None, "tensor"])
def test_a_percentile_leaves_just_so_many_weights_outside(fraction: float, clipped: int, group: Any) -> None:
    """Of 64 weights 5% are 3.2 and 25% are 16; of the 384 of the matrix 19.2 and 96."""
    w = RNG.standard_normal((64, 6)).astype(np.float32)
    q = made(w, bits=4, group=group, scale=Percentile(fraction))
    outside = np.abs(w) > 7 * np.asarray(q.scale) * (1 + 1e-6)
    wanted = clipped if group is None else {0: 0, 3: 19, 16: 96}[clipped]
    assert np.all(outside.sum(0 if group is None else None) == wanted)


def test_one_large_weight_no_longer_coarsens_its_group() -> None:
    w = RNG.standard_normal((64, 6)).astype(np.float32)
    w[5] = 40.0
    rest = np.arange(64) != 5
    plain, search, share = (
        np.mean((np.asarray(made(w, bits=4, scale=s).materialize()) - w)[rest] ** 2)
        for s in ("absmax", "mse", Percentile(0.98))
    )
    assert share < 0.05 * plain and search <= plain, (plain, search, share)


@pytest.mark.parametrize("scale", ["mse", "percentile"])
def test_zeros_and_nan_stay_what_they_are(scale: Any) -> None:
    w = np.zeros((32, 3), np.float32)
    w[:, 1], w[3, 1] = 1.0, np.nan
    got = np.asarray(ws.quant.rtn(group=16, scale=scale)({"kernel": w})["kernel"].materialize())
    assert np.all(got[:, [0, 2]] == 0) and np.isnan(got[:16, 1]).all() and np.all(got[16:, 1] == 1)


def test_gptq_takes_the_same_scales() -> None:
    """With uncorrelated inputs it is rounding, on scales found in the same way."""
    plain = made(W, bits=3, group=16, scale="l2.4")
    solved = ws.quant.gptq(3, group=16, scale="l2.4")({"kernel": W}, gram={"kernel": np.eye(64)})["kernel"]
    np.testing.assert_array_equal(solved.codes, plain.codes)
    np.testing.assert_array_equal(solved.scale, plain.scale)


def test_misuse_is_named() -> None:
    with pytest.raises(ws.WspaceError, match=r"no choice of scale 'mean'.*"):
        ws.quant.rtn(scale="mean")  # type: ignore[arg-type]
    with pytest.raises(ws.WspaceError, match="at least one step"):
        ws.quant.rtn(scale=Search(0))
    with pytest.raises(ws.WspaceError, match=r"ratios are within 0\.\.1"):
        ws.quant.gptq(scale=Percentile(1.5))
    with pytest.raises(ws.WspaceError, match=r"needs the side tree\(s\) gram"):
        ws.quant.rtn(scale="weighted")({"kernel": W})
