"""Deleted, odd rows could come out otherwise than jax's own softmax makes them."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from wspace_kernels.dispatch import target

from wspace.core.errors import ShapeError
from wspace.kernels import two_pass_softmax


@pytest.mark.parametrize("name", ["ref", "tpu", "gpu"])
def test_odd_rows(name: str) -> None:
    """Far apart by masks that are finite, all masked, NaN and infinity; a row's neighbours don't matter."""
    x = jnp.zeros((6, 4100)).at[0, :4098].set(-1e9).at[1].set(-jnp.inf).at[2, 7].set(jnp.nan).at[3, 4099].set(jnp.inf)
    x = x.at[4].set(-1e9).at[4, 5].set(-1e9 + 64)
    with target("cpu" if name == "ref" else name, interpret=True):
        run = jax.jit(partial(two_pass_softmax, implementation=name)).lower(x)
    y = np.asarray(run.compile()(x))
    assert np.isnan(y[1:4]).all() and not np.isnan(y[[0, 4, 5]]).any()
    np.testing.assert_array_equal(y[0], [*[0] * 4098, 0.5, 0.5])
    np.testing.assert_array_equal(y[4, 4:7], [np.float32(np.exp(-64.0)), 1, np.float32(np.exp(-64.0))])
    np.testing.assert_allclose(y[5], 1 / 4100, rtol=1e-6)


def test_misuse_is_told_and_short_rows_are_left_to_xla() -> None:
    x = jax.random.normal(jax.random.key(0), (2, 4096), jnp.float32)
    with pytest.raises(ShapeError, match="a scalar has no axis"):
        two_pass_softmax(jnp.float32(1))
    with target("gpu", interpret=True):
        assert jnp.array_equal(two_pass_softmax(x), two_pass_softmax(x, implementation="ref"))
        with pytest.raises(ShapeError, match="'gpu' is for rows longer than a block of 4096, got 4096"):
            two_pass_softmax(x, implementation="gpu")
