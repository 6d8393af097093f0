"""Deleted, weights could be computed in bfloat16, doubles narrowed to floats, or large numbers turned into NaN."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import wspace as ws
from tests.core.parts import add, mean, times

TINY = 2.0**-40


def test_doubles_are_computed_in_double_without_x64() -> None:
    assert not jax.config.read("jax_enable_x64")
    out = ws.chain(add(TINY), times(1.0))({"w": np.ones(3), "v": np.ones(3, np.float32)})
    assert out["w"].dtype == np.float64 and out["v"].dtype == np.float32
    np.testing.assert_array_equal(np.asarray(out["w"]), 1 + TINY)
    np.testing.assert_array_equal(out["v"], 1)


def test_doubles_around_a_base_and_in_a_stream() -> None:
    base, one = {"w": np.ones(3)}, {"w": np.ones(3) + TINY}
    got = ws.around_base(mean())(one, {"w": np.ones(3) + 3 * TINY}, base=base)["w"]
    np.testing.assert_array_equal(np.asarray(got), 1 + 2 * TINY)
    sink: dict[str, Any] = {}
    ws.stream(add(TINY), [base], sink)
    np.testing.assert_array_equal(np.asarray(sink["w"]), 1 + TINY)


def test_numbers_beside_doubles_are_doubles() -> None:
    """0.1 in float32 is off by 1.5e-9."""
    a, b = {"w": np.full(2, 1.0)}, {"w": np.full(2, 3.0)}
    np.testing.assert_allclose(np.asarray(ws.merge.weighted_sum((0.1, 0.7))(a, b)["w"]), 0.1 + 0.7 * 3.0, rtol=1e-15)
    np.testing.assert_allclose(np.asarray(ws.interpolate.lerp(0.1)(a, b)["w"]), 0.9 + 0.1 * 3.0, rtol=1e-15)


def test_doubles_in_another_tree_than_the_first_are_used_in_double() -> None:
    """And without a warning that they were cut."""
    a, b = {"w": np.full(2, 3.0, np.float32)}, {"w": np.full(2, -3.0 + 2.0**-30)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = mean()(a, b)["w"]
    assert got.dtype == np.float32
    np.testing.assert_array_equal(np.asarray(got), np.float32(2.0**-31))


def test_nodes_of_doubles_stand_for_doubles() -> None:
    w = np.ones((2, 2)) + TINY
    tree = ws.reparam.lora(rank=1)({"kernel": w}, key=jax.random.key(0))
    assert tree["kernel"].dtype == np.float64 and tree["kernel"].shape == (2, 2)
    np.testing.assert_array_equal(np.asarray(ws.materialize(tree)["kernel"]), w)
    np.testing.assert_array_equal(np.asarray(times(1.0)(tree)["kernel"]), w)


def test_doubles_are_planned_as_doubles() -> None:
    row = ws.plan(add(1.0), {"w": np.ones(3)}).rows[0]
    assert (row.dtype, row.made, row.bytes_out) == ("float64", "float64", 24)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_leaves_are_summed_in_float32(dtype: Any) -> None:
    """Half of 511 ones. A sum in bfloat16 stops at 256, so half of it at 128."""
    trees = [{"w": jnp.ones(2, dtype)}] * 511
    total = ws.leafwise("sum", lambda x, ctx: sum(x[1:], x[0]) / 2, arity=None)
    assert total(*trees)["w"].tolist() == [255.5 if dtype == jnp.float16 else 256.0] * 2


def test_between_the_parts_of_a_chain_the_leaf_has_its_own_dtype() -> None:
    """So a chain in memory is the same as its steps through files."""
    w = {"w": jnp.full(2, 1.0, jnp.bfloat16)}
    steps = times(2.0)(add(2.0**-9)(w))
    chained = ws.chain(add(2.0**-9), times(2.0))(w)
    np.testing.assert_array_equal(np.asarray(chained["w"]), np.asarray(steps["w"]))


@pytest.mark.parametrize(
    ("dtype", "top"),
    [(ml_dtypes.float8_e4m3fn, 448), (ml_dtypes.float8_e5m2, 57344), (ml_dtypes.float8_e4m3b11fnuz, 30)],
)
def test_float8_saturates_instead_of_turning_nan(dtype: Any, top: float) -> None:
    out = times(1e6)({"w": np.array([1.0, -1.0, 0.0]).astype(dtype)})["w"]
    assert out.dtype == dtype and np.asarray(out).astype(np.float32).tolist() == [top, -top, 0]


def test_nan_and_infinity_stay_visible() -> None:
    out = np.asarray(times(2.0)({"w": jnp.array([jnp.nan, jnp.inf, 1.0])})["w"])
    np.testing.assert_array_equal(out, [np.nan, np.inf, 2])


def test_gradients_and_maps_go_through() -> None:
    base = {"w": jnp.ones(3)}
    t = ws.chain(ws.around_base(times(3.0)), times(2.0))
    slope = jax.grad(lambda p: t(p, base=base)["w"].sum())({"w": jnp.zeros(3)})
    assert slope["w"].tolist() == [6, 6, 6]
