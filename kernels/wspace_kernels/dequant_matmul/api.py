"""x W for weights W of four or eight bits, which are read as they are stored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from wspace.core.errors import FormatError, ShapeError
from wspace.core.typing import Array
from wspace_kernels.dequant_matmul.codes import Levels, pack
from wspace_kernels.dispatch import Choice, Implementation, choose, with_gradient_of


def dequant_matmul(
    x: Array,
    codes: Array,
    scale: Array,
    zero: Array | None = None,
    *,
    levels: Sequence[float] | None = None,
    implementation: Implementation = None,
) -> Array:
    """The product of activations and quantized weights: W4A16, W8A16, NF4, FP4.

        y_to = sum_i x_ti (v_io - zero_go) scale_go,   v = codes, or levels[codes];   g = i // group

    Args:
      x: `[..., in]`, floating. Gradients reach it, and scale.
      codes: int8 or uint8 `[in, out]`; or two codes of four bits a byte, uint8 `[in/2, out]`, as `packed` makes them:
        the low bits are the first half of the inputs.
      scale: float `[in/group, out]`. zero: the code that stands for 0, of the same shape.
      levels: at most 16 numbers that codes count; None: codes are numbers, with a sign if packed. Static.
      implementation: None, "ref", "tpu" or "gpu". Static.
    Returns:
      `[..., out]` of x's dtype, summed in float32. W is rounded to x's dtype before the product.
    Raises:
      ShapeError: shapes that do not fit, or more than 16 levels. As `dispatch.choose` for a named implementation.
    Example:
      >>> codes, scale = jnp.array([[1], [-2]], jnp.int8), jnp.array([[0.5]])
      >>> dequant_matmul(jnp.array([[3.0, 1.0]]), codes, scale)
      Array([[0.5]], dtype=float32)
    """
    inputs, outputs = x.shape[-1], codes.shape[-1]
    rows, groups = codes.shape[0], scale.shape[0] if scale.ndim == 2 else 0
    table = None if levels is None else tuple(float(v) for v in levels)
    if rows not in (inputs, inputs / 2) or scale.shape != (groups, outputs) or not groups or inputs % groups:
        raise ShapeError(
            f"dequant_matmul: x {x.shape}, codes {codes.shape} and scale {scale.shape} do not fit; wanted [..., in], "
            f"[in, out] or packed [in/2, out], [in/group, out]"
        )
    if (zero is not None and zero.shape != scale.shape) or len(table or ()) > 16:
        raise ShapeError(f"dequant_matmul: zero needs the shape of scale, {scale.shape}, and levels are at most 16")
    static = {"levels": table, "packed": rows != inputs}
    args = (x.reshape(math.prod(x.shape[:-1]), inputs), codes, scale, zero)
    made = _run(*args, choice=choose("dequant_matmul", implementation, *args, **static), **static)
    return made.reshape(*x.shape[:-1], outputs)


@partial(jax.jit, static_argnames=("choice", "levels", "packed"))
def _run(
    x: Array, codes: Array, scale: Array, zero: Array | None, choice: Choice, levels: Levels, packed: bool
) -> Array:
    reference = choice._replace(name="ref").function("dequant_matmul", levels=levels, packed=packed)
    if choice.name == "ref":
        return reference(x, codes, scale, zero)
    kernel = choice.function("dequant_matmul", levels=levels, packed=packed)
    return with_gradient_of(reference, kernel)(x, codes, scale, zero)


def packed(q: Any) -> dict[str, Any]:
    """The weights' arguments of `dequant_matmul`, from a `wspace.quant.QTensor` of a matrix.

    Codes of four bits or less go two in a byte if there is an even number of inputs; others stay bytes.

    Raises:
      FormatError: a format that has other scales than a scale, a zero and an `over`, codes of more than 16 levels or of
        no integers, or scales that several outputs share.
    Example:
      >>> import wspace as ws
      >>> q = ws.quant.rtn(bits=4)({"kernel": jnp.array([[7.0], [-2.0]])})["kernel"]
      >>> packed(q)["codes"], dequant_matmul(jnp.ones((1, 2)), **packed(q))
      (Array([[231]], dtype=uint8), Array([[5.]], dtype=float32))
    """
    codes, scales, levels = q.codes, dict(q.scales), getattr(q.grid, "levels", None)
    over = scales.pop("over", None)
    scale, zero = scales.pop("scale", None), scales.pop("zero", None)
    known = jnp.issubdtype(codes.dtype, jnp.signedinteger) if levels is None else len(levels) <= 16
    if scale is None or scales or not known or codes.ndim != 2 or scale.shape[1] != codes.shape[1]:
        raise FormatError(
            f"packed: {q.format} codes {codes.dtype}{list(codes.shape)} with scales {sorted(q.scales)} are none that "
            f"dequant_matmul reads; use integers or up to 16 levels of a matrix, with scales of each output"
        )
    narrow = q.bits <= 4 and codes.shape[0] % 2 == 0
    return {
        "codes": pack(codes) if narrow else codes,
        "scale": scale if over is None else scale * over,
        "zero": zero,
        "levels": levels,
    }
