"""Some inputs of a matrix rounded one after another, each error carried on to those that follow, without leaving the
chip: the part of GPTQ that is no matrix product."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax

from wspace.core.errors import ShapeError, WspaceError
from wspace.core.typing import Array
from wspace_kernels.dispatch import Choice, Implementation, choose


class Solved(NamedTuple):
    """codes: int8. made: what they stand for, float32. errors: e, float32. All `[inputs, out]`."""

    codes: Array
    made: Array
    errors: Array


def gptq_block(
    w: Array,
    factor: Array,
    scale: Array,
    zero: Array | None = None,
    bits: int = 4,
    implementation: Implementation = None,
) -> Solved:
    """Round a block of inputs to integers on given scales.

        for i = 0, 1, ...:  q_i = nearest(w_i),   e_i = (w_i - q_i) / U_ii,   w_j <- w_j - U_ij e_i   for j > i

    The inputs after the block then take `w -= U[block, after].T @ errors`.

    Args:
      w: `[block, out]`, float32: inputs that follow one another. factor: `[block, block]`, their part of U, upper
        triangular, with U^T U the inverse of the damped Gram matrix: the inverse of `wspace.quant.gptq.upper_factor`.
      scale: `[block/group, out]`. zero: the code that stands for 0, of the same shape.
      bits: 2..8; codes are -2^(b-1) .. 2^(b-1) - 1. Static. implementation: None, "ref", "tpu" or "gpu". Static.
    Returns:
      Solved. No gradients. A weight that is no number has code 0 and errors of NaN.
    Raises:
      ShapeError: shapes that do not fit. WspaceError: bits. As `dispatch.choose` for a named implementation.
    Example:
      >>> import jax.numpy as jnp
      >>> w, factor = jnp.array([[0.7], [0.2]]), jnp.array([[1.0, -0.5], [0.0, 1.0]])
      >>> solved = gptq_block(w, factor, jnp.array([[0.5]]))
      >>> solved.codes.ravel(), [f"{e:.2f}" for e in solved.errors.ravel()]
      (Array([1, 1], dtype=int8), ['0.20', '-0.20'])

    Reference: Frantar, Ashkboos, Hoefler, Alistarh, 2022, "GPTQ: Accurate Post-Training Quantization for Generative
      Pre-trained Transformers".
    Differs from the paper: none.
    """
    if not 2 <= bits <= 8:
        raise WspaceError(f"gptq_block: bits={bits} is not supported; a code has 2 to 8 bits")
    sides = {w.shape[:1] * 2, factor.shape}
    groups = scale.shape[0] if scale.ndim == 2 else 0
    fits = w.ndim == 2 and len(sides) == 1 and groups and not w.shape[0] % groups and scale.shape[1] == w.shape[1]
    if not fits or (zero is not None and zero.shape != scale.shape):
        raise ShapeError(
            f"gptq_block: w {w.shape}, factor {factor.shape}, scale {scale.shape} and zero "
            f"{None if zero is None else zero.shape} do not fit; wanted [b, out], [b, b], [b/group, out]"
        )
    args = (w, factor, scale, zero)
    return Solved(*_run(*args, choice=choose("gptq_block", implementation, *args, bits=bits), bits=bits))


@partial(jax.jit, static_argnames=("choice", "bits"))
def _run(w: Array, factor: Array, scale: Array, zero: Array | None, choice: Choice, bits: int) -> tuple[Array, ...]:
    made: tuple[Array, ...] = choice.function("gptq_block", bits=bits)(w, factor, scale, zero)
    return made
