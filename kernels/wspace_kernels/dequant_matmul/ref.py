"""The weights in full, then a product."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from wspace.core.typing import Array
from wspace_kernels.dequant_matmul.codes import Levels, halves, values


def dequant_matmul(x: Array, codes: Array, scale: Array, zero: Array | None, *, levels: Levels, packed: bool) -> Array:
    """x `[tokens, in]`, codes `[in, out]` or packed `[in/2, out]`, scale and zero `[in/group, out]`."""
    if packed:
        codes = jnp.concatenate(halves(codes, levels is None), axis=0)
    groups, outputs = scale.shape
    w = values(codes if levels is None else codes.astype(jnp.int32), levels).reshape(groups, -1, outputs)
    if zero is not None:
        w = w - zero.astype(jnp.float32)[:, None]
    w = (w * scale.astype(jnp.float32)[:, None]).reshape(-1, outputs).astype(x.dtype)
    product = jnp.matmul(x, w, preferred_element_type=jnp.float32, precision=precision(x))
    return product.astype(x.dtype)


def precision(x: Array) -> lax.Precision:
    """Of a product: float32 is meant as such; narrower dtypes are exact as they are."""
    return lax.Precision.HIGHEST if x.dtype == jnp.float32 else lax.Precision.DEFAULT
