"""Deleted, a sum over a leaf from a file could differ in its last bits from the one in memory, or leave entries out."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wspace as ws
from wspace.core import blocks
from wspace.core.totals import adds_up

RNG = np.random.default_rng(0)
LEAVES = [RNG.standard_normal((700, 1000)).astype(np.float32) for _ in range(4)]  # a block and a third of one


@adds_up
def wspace_test_moments(x: jax.Array, y: jax.Array) -> dict[str, jax.Array]:
    return {"x": jnp.sum(x), "xy": jnp.sum(x * y)}


def test_every_entry_counts_once() -> None:
    whole = jnp.ones((700, 1000)).at[0, 0].set(2).at[-1, -1].set(4)
    found = wspace_test_moments(whole, jnp.full((700, 1000), 0.5))
    assert (float(found["x"]), float(found["xy"])) == (700_004, 350_002)
    x, y = LEAVES[:2]
    found = wspace_test_moments(jnp.asarray(x), y)
    for got, want in ((found["x"], x.sum(dtype=np.float64)), (found["xy"], np.vdot(x.astype(np.float64), y))):
        assert got.dtype == jnp.float32 and abs(got - want) < 1e-2  # of 700,000 numbers near one


def test_compiled_mapped_and_differentiated_it_is_a_plain_sum() -> None:
    x, y = map(jnp.asarray, LEAVES[:2])
    plain = jnp.sum(x * y)
    assert jnp.allclose(jax.jit(wspace_test_moments)(x, y)["xy"], plain, rtol=1e-4)
    assert jnp.allclose(jax.vmap(wspace_test_moments)(x[None], y[None])["xy"][0], plain, rtol=1e-4)
    assert jnp.array_equal(jax.grad(lambda x: wspace_test_moments(x, y)["xy"])(x), y)


@pytest.mark.parametrize(
    "t",
    [
        ws.interpolate.slerp(0.3),
        ws.average.model_stock(),
        ws.merge.dare(0.5, rescale="l1"),
        ws.interpolate.multislerp(),
        ws.interpolate.nuslerp(),
        ws.merge.ramplus_tl(epsilon=0.5),
        ws.merge.robust_weight_signature(),
        ws.merge.delta_weighted(),
        ws.merge.geometric_median(),
    ],
    ids=lambda t: t.name,
)
def test_large_leaves_from_files_equal_those_in_memory_bitwise(t: ws.Transform) -> None:
    base, *models = ({"w": x} for x in LEAVES)
    models = models[: t.arity or 3]
    given: dict[str, Any] = {"base": base} if "base" in t.needs else {}
    given |= {"key": jax.random.key(0)} if "key" in t.needs else {}
    sink: dict[str, Any] = {}
    ws.stream(t, models, sink, **given)
    on_device = jax.tree.map(jnp.asarray, (models, given.get("base")))
    given |= {"base": on_device[1]} if "base" in t.needs else {}
    np.testing.assert_array_equal(sink["w"], t(*on_device[0], **given)["w"])
    assert LEAVES[0].size > blocks.BLOCK
