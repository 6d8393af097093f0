"""Deleted, what is packed could be another choice than `wspace.prune.nm` makes, or not come back."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from wspace_kernels.dispatch import target

import wspace as ws
from wspace.core.errors import ShapeError
from wspace.core.typing import Array
from wspace.kernels import nm_pack, nm_unpack


def weights() -> Array:
    w = jnp.round(2 * jax.random.normal(jax.random.key(1), (256, 12), jnp.float32))
    return w.at[0, 0].set(jnp.nan)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (1, 2), (3, 4), (1, 1)])
def test_what_comes_back_is_the_pruned_leaf(n: int, m: int) -> None:
    w = weights()
    values, indices = nm_pack(w, n=n, m=m)
    np.testing.assert_array_equal(nm_unpack(values, indices, m=m), ws.prune.nm(n, m)({"kernel": w})["kernel"])
    assert values.size * m == n * w.size and indices.size * m * (4 // n) == w.size


@pytest.mark.parametrize("name", ["tpu", "gpu"])
def test_nan_stays_and_the_gradient_is_that_of_what_stays(name: str) -> None:
    def loss(w: Array) -> tuple[Array, Array]:
        values, _ = nm_pack(w, implementation=name)
        return jnp.nansum(values**2), values

    w = weights()
    with target(name, interpret=True):
        run = jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(w).compile()
    (_, values), slope = run(w)
    np.testing.assert_array_equal(values, nm_pack(w)[0])
    assert np.isnan(values).sum() == 1
    kept = np.nan_to_num(ws.prune.nm(2, 4)({"kernel": w})["kernel"])
    np.testing.assert_array_equal(np.nan_to_num(slope), 2 * kept)  # that of NaN is NaN


def test_misuse_is_told_before_any_work() -> None:
    w = weights()
    with pytest.raises(ShapeError, match="4:8 is no pattern of two bits"):
        nm_pack(w, n=4, m=8)
    with pytest.raises(ShapeError, match=r"holds 2 groups of 2:4, but w is \(12, 3\)"):
        nm_pack(w[:12, :3])
    with pytest.raises(ShapeError, match=r"score has shape \(8, 12\)"):
        nm_pack(w, w[:8])
    with target("tpu", interpret=True), pytest.raises(ShapeError, match="'tpu' needs bytes of indices in blocks of 32"):
        nm_pack(w[:8], implementation="tpu")
