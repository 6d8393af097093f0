"""Deleted, the gains could be of another pairing than weight matching asks for."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from wspace_kernels.dispatch import target

from wspace.core.errors import ShapeError
from wspace.kernels import permute_gather
from wspace.match.gains import Pair
from wspace.trace.by_hand import by_hand


def test_it_is_what_weight_matching_solves() -> None:
    """A layer whose inputs are matched already: `wspace.match.gains` permutes its rows, then multiplies."""
    a, b = jax.random.normal(jax.random.key(4), (2, 12, 9), jnp.float32)
    inputs = jax.random.permutation(jax.random.key(5), 12)
    pair = Pair(by_hand({"w": ("in", "out")}, {"w": a}), {("w",): [(a, b)]})
    wanted = pair.gains("out", {"in": np.asarray(inputs), "out": np.arange(9)})
    np.testing.assert_allclose(permute_gather(a, b, inputs), wanted, rtol=1e-5, atol=1e-5)


def test_misuse_is_told_before_any_work() -> None:
    x = jnp.ones((8, 4))
    with pytest.raises(ShapeError, match=r"permutation \[4\] do not fit"):
        permute_gather(x, x, jnp.arange(4))
    with pytest.raises(ShapeError, match="float32 are no places"):
        permute_gather(x, x, jnp.ones(8))
    with target("tpu", interpret=True), pytest.raises(ShapeError, match="'tpu' needs rows in blocks of 128"):
        permute_gather(x, x, jnp.arange(8), implementation="tpu")
