"""Products of codes: what integer hardware computes, exactly."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from wspace.core.errors import ShapeError
from wspace.core.typing import Array
from wspace.quant.grid import Scales


@jax.jit
def _products(x: Array, x_scales: Scales, w: Array, w_scales: Scales) -> Array:
    tokens, inputs = x.shape
    groups = w_scales["scale"].shape[0]
    size, outputs = inputs // groups, w.shape[1]
    a, b = x.reshape(tokens, groups, size), w.reshape(groups, size, outputs)
    dims = (((2,), (1,)), ((1,), (0,)))
    sums = lax.dot_general(a, b, dims, preferred_element_type=jnp.int32)  # [groups, tokens, outputs]
    if "zero" in x_scales:
        of_weights = jnp.sum(b, axis=1, dtype=jnp.int32)[:, None]
        sums = sums - x_scales["zero"].astype(jnp.int32)[None] * of_weights
    if "zero" in w_scales:
        shift = x_scales["zero"].astype(jnp.int32)[None] * size if "zero" in x_scales else 0
        of_tokens = jnp.sum(a, axis=2, dtype=jnp.int32).T[:, :, None] - shift
        sums = sums - of_tokens * w_scales["zero"].astype(jnp.int32)[:, None]
    return jnp.sum(sums.astype(jnp.float32) * w_scales["scale"][:, None], axis=0) * x_scales["scale"]


def int_matmul(x: Array, x_scales: Scales, w: Array, w_scales: Scales) -> Array:
    """The product of quantized activations and weights, summed in int32 within each group of inputs (W8A8, W4A8).

        y_to = s_t sum_g s_go sum_{i in g} (x_ti - zx_t) (w_io - zw_go)

    Integer sums are exact, as products of bytes over up to 2^15 inputs stay within int32.

    Args:
      x: int8 `[tokens, in]`, with scales per token or tensor (`[tokens or 1, 1]`), of `quantize_activations`.
      w: int8 `[in, out]`, with scales `[in/group, out]`, of `rtn` or any solver on an integer grid.
    Returns:
      float32 `[tokens, out]`: the product of what the codes stand for; groups are added up in float32.
    Raises:
      ShapeError: scales per channel of x, which no product of integers can take out of the sum; other shapes.
    Example:
      >>> x, w = jnp.array([[1, 2]], jnp.int8), jnp.array([[3], [4]], jnp.int8)
      >>> one = {"scale": jnp.array([[0.5]])}
      >>> int_matmul(x, one, w, one)
      Array([[2.75]], dtype=float32)
    """
    if x_scales["scale"].shape[-1] != 1:
        raise ShapeError(
            f"int_matmul: activations have scales {x_scales['scale'].shape}; quantize them per token or per tensor"
        )
    groups = w_scales["scale"].shape[0]
    if x.shape[1] != w.shape[0] or w.shape[0] % max(groups, 1) or w_scales["scale"].shape[1] != w.shape[1]:
        raise ShapeError(f"int_matmul: x {x.shape}, w {w.shape}, scales of w {w_scales['scale'].shape} do not fit")
    return _products(x, x_scales, w, w_scales)
