"""Deleted, the kernel could read codes in another order than the project's own quantized leaves have them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from wspace_kernels.dispatch import target

import wspace as ws
from wspace.core.errors import FormatError, ShapeError
from wspace.kernels import dequant_matmul, packed


@pytest.mark.parametrize("grid", ["int4", "int4_asymmetric", "int3", "int8", "nf4", "fp4", "mxfp4"])
def test_a_quantized_leaf_times_activations(grid: str) -> None:
    w, x = jax.random.normal(jax.random.key(0), (2, 64, 24), jnp.float32)
    q = ws.quant.rtn(group=32, grid=grid)({"kernel": w})["kernel"]
    given = packed(q)
    assert given["codes"].shape[0] == (64 if grid == "int8" else 32)
    np.testing.assert_allclose(dequant_matmul(x.T, **given), x.T @ q.materialize(), rtol=1e-5, atol=1e-5)


def test_what_does_not_fit_is_told() -> None:
    w = jax.random.normal(jax.random.key(0), (64, 24), jnp.float32)
    q = ws.quant.rtn(grid="fp8_e4m3")({"kernel": w})["kernel"]
    with pytest.raises(FormatError, match="fp8_e4m3 codes"):
        packed(q)
    with pytest.raises(FormatError, match="scales of each output"):
        packed(ws.quant.rtn(bits=4, group="tensor")({"kernel": w})["kernel"])
    given = packed(ws.quant.rtn(bits=4)({"kernel": w})["kernel"])
    with pytest.raises(ShapeError, match="do not fit"):
        dequant_matmul(jnp.ones((2, 48)), **given)
    with target("gpu", interpret=True), pytest.raises(ShapeError, match="'gpu' needs a multiple of 16 rows"):
        odd = packed(ws.quant.rtn(bits=4, group=4)({"kernel": w})["kernel"])
        dequant_matmul(jnp.ones((2, 64)), **odd, implementation="gpu")
