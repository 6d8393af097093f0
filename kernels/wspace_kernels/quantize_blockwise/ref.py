"""Blocks are the rows of a matrix, here and in the kernels."""

from __future__ import annotations

import jax.numpy as jnp

from wspace.core.typing import Array
from wspace_kernels.portable import magnitude
from wspace_kernels.quantize_blockwise.dynamic import decode, encode


def quantize(x: Array, *, signed: bool) -> tuple[Array, Array]:
    """Codes uint8 `[n, block]` and the largest magnitudes float32 `[n, 1]` of x `[n, block]`."""
    x = x.astype(jnp.float32)
    most = jnp.max(magnitude(x), axis=1, keepdims=True)
    share = jnp.where(most > 0, x / jnp.where(most > 0, most, 1), 0)
    return encode(share, signed).astype(jnp.uint8), most


def dequantize(codes: Array, most: Array, *, signed: bool) -> Array:
    """float32 `[n, block]`."""
    return decode(codes.astype(jnp.int32), signed) * most


def adam(
    numbers: Array, param: Array, grad: Array, first: Array, first_most: Array, second: Array, second_most: Array
) -> tuple[Array, Array, Array, Array, Array]:
    """The parameters and the moments after a step, from those before; blocks `[n, block]` and `[n, 1]`.

    numbers: `[7]`: rate, b1, b2, eps, decay, 1 - b1^t, 1 - b2^t; or anything that numbers[i] gives scalars of.
    """
    rate, b1, b2, eps, decay, first_bias, second_bias = (numbers[i] for i in range(7))
    slope, p = grad.astype(jnp.float32), param.astype(jnp.float32)
    m = b1 * dequantize(first, first_most, signed=True) + (1 - b1) * slope
    v = b2 * dequantize(second, second_most, signed=False) + (1 - b2) * slope * slope
    p = p - rate * (m / first_bias / (jnp.sqrt(v / second_bias) + eps) + decay * p)
    return (p.astype(param.dtype), *quantize(m, signed=True), *quantize(v, signed=False))
