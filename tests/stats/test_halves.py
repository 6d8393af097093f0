"""Deleted, the half of a product that is not computed could be filled in wrongly, for sizes that no small test has."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wspace as ws
from wspace.stats import halves, seen


def test_halved_products_are_the_products() -> None:
    rng = np.random.default_rng(0)
    x, e = rng.standard_normal((7, 13)), rng.standard_normal((13, 4))
    with jax.enable_x64(True):
        np.testing.assert_allclose(halves.symmetric_product(x, 3 * x, 2), 3 * x.T @ x, atol=1e-12)
        np.testing.assert_allclose(halves.quadratic(x.T @ x, e, 2), np.sum((x @ e) ** 2), rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_gram_matrix_of_many_inputs(monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    monkeypatch.setattr(seen, "MANY", 16)
    rng, fold = np.random.default_rng(1), ws.stats.gram()
    x = jnp.asarray(rng.standard_normal((3, 5, 18)), dtype)
    weights = jnp.asarray(rng.uniform(size=(3, 5)), jnp.float32)
    for given, w in ((None, np.ones((3, 5))), (weights, np.asarray(weights, np.float64))):
        got = jax.jit(lambda x, w: fold.finish(fold.lift(seen.Seen(seen.Rows(x, w), None))))(x, given)
        wide = np.asarray(x, np.float64)
        np.testing.assert_allclose(got, np.einsum("abi,abj,ab->ij", wide, wide, w) / w.sum(), atol=1e-6)
