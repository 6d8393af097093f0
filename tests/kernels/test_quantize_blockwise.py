"""Deleted, the codes could be no longer those of bitsandbytes, and the optimizer no longer Adam."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from wspace_kernels.dispatch import target

from tests.kernels.truths.quantize_blockwise import dynamic_map
from wspace.core.errors import ShapeError
from wspace.kernels import adam_8bit, dequantize_blockwise, empty_moments, quantize_blockwise
from wspace.quant.layouts import bitsandbytes


@pytest.mark.parametrize("signed", [True, False])
def test_the_closed_form_is_the_map_of_bitsandbytes(signed: bool) -> None:
    """All 256 numbers: those that files of bitsandbytes have, and each is its own nearest one."""
    table = dynamic_map(signed)
    if signed:
        np.testing.assert_allclose(table, bitsandbytes.dynamic_map(), rtol=1e-6, atol=0)
    codes = np.arange(256, dtype=np.uint8)[None]
    made = dequantize_blockwise(jnp.asarray(codes), jnp.asarray(np.ones((1, 1), "f")), (256,), signed)
    np.testing.assert_allclose(made, table, rtol=1e-6, atol=0)
    assert len(set(table)) == 256 and table.max() == 1.0
    np.testing.assert_array_equal(quantize_blockwise(made, signed=signed)[0], codes)


def test_the_error_is_that_of_the_paper() -> None:
    """A normal leaf with one outlier: blocks keep the outlier to themselves (relative errors of the methods' notes)."""
    x = np.random.default_rng(0).normal(0, 1e-3, 65536).astype(np.float32)
    x[100] = 5.0
    found = {}
    for block in (256, 65536):
        made = dequantize_blockwise(*quantize_blockwise(jnp.asarray(x), block), x.shape)
        found[block] = float(np.median(np.abs(np.asarray(made) - x) / np.abs(x)))
    assert found[256] < 0.0125 and found[65536] > 0.1


def test_training_follows_adam() -> None:
    """A least-squares problem: the same loss as optax.adamw on the way, within a tenth of what was won."""
    a = jnp.asarray(np.random.default_rng(0).standard_normal((64, 30)), jnp.float32)
    truth = jnp.asarray(np.linspace(-1, 1, 30), jnp.float32)
    slope = jax.jit(jax.grad(lambda p: jnp.mean((a @ (p - truth)) ** 2)))
    p = wide = jnp.zeros(30, jnp.float32)
    moments, exact = empty_moments(p, 128), optax.adam(0.05)
    state, follow = exact.init(wide), jax.jit(exact.update)
    for step in range(1, 41):
        p, moments = adam_8bit(p, slope(p), moments, step, 0.05)
        with jax.numpy_dtype_promotion("standard"):
            update, state = follow(slope(wide), state)
        wide = wide + update
        if step == 1:
            np.testing.assert_allclose(p, wide, rtol=1e-5)
    left, best, start = (float(np.linalg.norm(np.asarray(x) - np.asarray(truth))) for x in (p, wide, np.zeros(30)))
    assert best < start / 4 and abs(left - best) < 0.1 * start


def test_blocks_that_a_kernel_cannot_take() -> None:
    x = jnp.ones((4, 100), jnp.float32)
    for name, match in (("tpu", "multiple of 128"), ("gpu", "power of two")):
        with target(name, interpret=True), pytest.raises(ShapeError, match=match):
            quantize_blockwise(x, 100, implementation=name)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="empty_moments"):
        adam_8bit(x, x, empty_moments(x[:2]), 1, 0.1)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_block_with_no_number_says_so_and_the_others_stay(bad: float) -> None:
    x = np.ones(512, np.float32)
    x[3] = bad
    codes, most = quantize_blockwise(jnp.asarray(x))
    made = np.asarray(dequantize_blockwise(codes, most, x.shape))
    assert not np.isfinite(made[3]) and (made[256:] == 1).all()
