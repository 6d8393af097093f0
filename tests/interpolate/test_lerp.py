"""Deleted, a path could miss its ends by a rounding error, or not be mapped and differentiated over t."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import wspace as ws
from tests.rows import close
from wspace.core.errors import ShapeError, TreeMismatch

RNG = np.random.default_rng(0)
WIDE_A = {"w": RNG.standard_normal((64, 8)) * 10.0 ** RNG.integers(-3, 3, (64, 8))}
WIDE_B = {"w": RNG.standard_normal((64, 8))}


def cast(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(dtype), tree)


A, B = cast(WIDE_A, np.float32), cast(WIDE_B, np.float32)


@pytest.mark.parametrize("by", [ws.interpolate.lerp, ws.interpolate.slerp])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
def test_the_ends_are_the_trees_to_the_last_bit(by: Any, dtype: Any) -> None:
    a, b = cast(WIDE_A, dtype), cast(WIDE_B, dtype)
    assert not np.array_equal(a["w"] + (b["w"] - a["w"]), b["w"])  # the formula that misses b at t = 1
    for t in (0, 0.0, jnp.zeros(())):
        np.testing.assert_array_equal(by(t)(a, b)["w"], a["w"])
    for t in (1, 1.0, jnp.ones(())):
        np.testing.assert_array_equal(by(t)(a, b)["w"], b["w"])


def test_float64_leaves_are_computed_in_float64() -> None:
    close(ws.interpolate.lerp(0.3)(WIDE_A, WIDE_B), {"w": 0.7 * WIDE_A["w"] + 0.3 * WIDE_B["w"]}, 1e-15)


def test_positions_can_be_mapped_and_differentiated() -> None:
    ts = jnp.linspace(-0.5, 1.5, 5)
    mapped = jax.vmap(lambda t: ws.interpolate.lerp(t)(A, B)["w"])(ts)
    for t, row in zip(ts, mapped, strict=True):
        np.testing.assert_array_equal(row, ws.interpolate.lerp(t)(A, B)["w"])
    for t in (0.0, 0.4, 1.0):
        slope = jax.jacfwd(lambda t: ws.interpolate.lerp(t)(A, B)["w"])(t)
        np.testing.assert_allclose(slope, B["w"] - A["w"], rtol=1e-6)


@pytest.mark.parametrize("by", [ws.interpolate.lerp, ws.interpolate.slerp])
def test_misuse_raises_before_any_work(by: Any) -> None:
    with pytest.raises(ShapeError, match=r"t has shape \(2,\)"):
        by(jnp.zeros(2))
    with pytest.raises(TreeMismatch, match=r"w is \(64, 8\) in tree 1 and \(8,\) in tree 2"):
        by(0.5)(A, {"w": np.ones(8, np.float32)})
    with pytest.raises(ShapeError, match="takes 2 trees, but got 3"):
        by(0.5)(A, A, A)
