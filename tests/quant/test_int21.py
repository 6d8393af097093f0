"""Deleted, training beside frozen codes could have another gradient than the product it stands for."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wspace as ws
from wspace.quant.int21 import divergence

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("name", ["kernel", "weight"])
def test_its_gradient_is_that_of_the_materialized_product(name: str) -> None:
    shape = (12, 5) if name == "kernel" else (5, 12)
    node = ws.quant.lorc(2, ws.quant.rtn(2))({name: jnp.asarray(RNG.standard_normal(shape), jnp.float32)})[name]
    x, weigh = (jnp.asarray(RNG.standard_normal(s), jnp.float32) for s in ((3, 7, 12), (3, 7, 5)))

    def fused(x: Any, a: Any, b: Any) -> Any:
        made = type(node)(node.base, a, b, node.view, node.weight_dtype)
        return jnp.sum(weigh * jnp.tanh(ws.quant.quantized_linear(x, made)))

    def plain(x: Any, a: Any, b: Any) -> Any:
        w = node.view.to_matrix(node.base.materialize()) + a @ b
        return jnp.sum(weigh * jnp.tanh(x @ w))

    got, want = (jax.jit(jax.grad(f, (0, 1, 2)))(x, node.a, node.b) for f in (fused, plain))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    frozen = jax.jit(jax.grad(lambda n: jnp.sum(ws.quant.quantized_linear(x, n)), allow_int=True))(node)
    assert np.all(np.asarray(frozen.base.scale) == 0) and np.any(np.asarray(frozen.a) != 0)


def test_two_bits_with_a_trained_correction_come_near_the_original() -> None:
    """Three layers at two bits: the divergence of outputs falls from rounding to a closed-form correction to a trained
    one, on inputs not seen; codes and scales stay, and the size is two bits and the correction's."""
    sizes = (16, 48, 48, 6)
    params = {
        f"layer{k}": {"kernel": jnp.asarray(RNG.standard_normal((a, b)) * np.sqrt(2 / a), jnp.float32)}
        for k, (a, b) in enumerate(pairwise(sizes))
    }

    def apply(p: Any, x: Any) -> Any:
        for k in range(3):
            x = x @ p[f"layer{k}"]["kernel"]
            x = jnp.maximum(x, 0) if k < 2 else x
        return x

    x, held_out = (jnp.asarray(RNG.standard_normal((n, 16)), jnp.float32) for n in (4096, 512))
    then = ws.quant.rtn(2, group=16, symmetric=False)
    plain, closed = then(params), ws.quant.lorc(4, then)(params)
    batches = [np.asarray(x)[k : k + 256] for k in range(0, 4096, 256)] * 8
    with jax.numpy_dtype_promotion("standard"):  # adam counts in int32
        trained = ws.quant.lrec(apply, params, closed, batches, optax.adam(3e-3))

    apart = jax.jit(lambda p: divergence(apply(params, held_out), apply(p, held_out)))

    def off(p: Any) -> float:
        return float(apart(ws.materialize(p)))

    errors = [off(p) for p in (plain, closed, trained)]
    assert errors[2] < 0.5 * errors[1] and errors[1] < errors[0], errors
    before, after = closed["layer1"]["kernel"], trained["layer1"]["kernel"]
    np.testing.assert_array_equal(before.base.codes, after.base.codes)
    assert after.stored_bits() == 48 * 48 * 2 + 3 * 48 * (32 + 2) + 4 * (48 + 48) * 32
    with pytest.raises(ws.core.errors.SelectionError, match="nothing trainable"):
        ws.quant.lrec(apply, params, plain, [x], optax.sgd(0.1))
