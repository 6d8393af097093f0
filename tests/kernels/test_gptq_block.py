"""Deleted, the kernel could solve another problem than `wspace.quant.gptq` does."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from wspace_kernels.dispatch import target

from wspace.core.errors import ShapeError, WspaceError
from wspace.kernels import gptq_block
from wspace.quant.formats import named
from wspace.quant.gptq import damped, gptq_array, upper_factor
from wspace.quant.grid import Block, decode, fit


@cache
def by_gptq(grid: str) -> Any:
    """(arguments of the kernel, codes, what they stand for)."""
    x, w = jnp.asarray(np.random.default_rng(0).standard_normal((2, 64, 64)), jnp.float32)
    gram, form = x.T @ x / 64, named(grid)
    wanted, scales = gptq_array(w, gram, 0.01, form, Block(64, 1))
    factor = jnp.triu(jnp.linalg.inv(upper_factor(damped(w, gram, 0.01)[1])))
    given = (w, factor, fit(w, form, Block(64, 1))["scale"], scales.get("zero"), form.bits)
    return given, wanted, decode(wanted, form, scales)


@pytest.mark.parametrize("name", ["ref", "tpu", "gpu"])
@pytest.mark.parametrize("grid", ["int4", "int3_asymmetric"])
def test_a_matrix_of_one_block_is_that_of_gptq(name: str, grid: str) -> None:
    given, wanted, made = by_gptq(grid)
    with target("cpu" if name == "ref" else name, interpret=True):
        got = gptq_block(*given, name)
    np.testing.assert_array_equal(got.codes, wanted)
    np.testing.assert_allclose(got.made, made, rtol=1e-5, atol=1e-6)


def test_what_does_not_fit_is_told() -> None:
    w, factor, scale = jnp.ones((48, 4)), jnp.eye(48), jnp.ones((1, 4))
    with pytest.raises(ShapeError, match=r"factor \(4, 4\)"):
        gptq_block(w, factor[:4, :4], scale)
    with pytest.raises(WspaceError, match="bits=9"):
        gptq_block(w, factor, scale, bits=9)
    with target("gpu", interpret=True), pytest.raises(ShapeError, match="a power of two"):
        gptq_block(w, factor, scale, implementation="gpu")


def test_a_weight_that_is_no_number_says_so() -> None:
    w = np.ones((4, 2), np.float32)
    w[1, 0] = np.nan
    solved = gptq_block(jnp.asarray(w), jnp.eye(4), jnp.ones((1, 2)))
    codes, errors = np.asarray(solved.codes), np.asarray(solved.errors)
    assert codes[1, 0] == 0 and np.isnan(errors[1, 0])
    assert np.isfinite(errors[:, 1]).all()
