"""Softmax that reads a long row twice: maximum and sum at once, then what is written."""

from __future__ import annotations

from functools import partial

import jax

from wspace.core.errors import ShapeError
from wspace.core.typing import Array
from wspace_kernels.blocks import matrix
from wspace_kernels.dispatch import Choice, Implementation, choose
from wspace_kernels.two_pass_softmax.ref import slope


def two_pass_softmax(x: Array, *, implementation: Implementation = None) -> Array:
    """Softmax over the last axis, for rows that are longer than what a kernel holds at once.

        pass 1: (m, s) = fold of (x_i, 1) by (m1, s1) + (m2, s2) = (M, s1 e^{m1 - M} + s2 e^{m2 - M}), M = max(m1, m2)
        pass 2: y_i = e^{x_i - m} / s

    The usual form reads a row three times: for the maximum, the sum, the result.

    Args:
      x: `[..., n]`, floating.
      implementation: None, "ref", "tpu" or "gpu". Static.
    Returns:
      Array of x's shape and dtype; computed in float32 (float64 if x is). A row with NaN or infinity, or of -infinity
      alone, is NaN.
    Raises:
      ShapeError: a scalar. As `dispatch.choose` for a named implementation: kernels refuse rows that fit in one block,
        which plain XLA reads once.
    Example:
      >>> two_pass_softmax(jax.numpy.array([1e4, 1e4, -1e4]))
      Array([0.5, 0.5, 0. ], dtype=float32)

    Reference: Dukhan, Ablavatski, 2020, "The Two-Pass Softmax Algorithm"; the fold is that of Milakov, Gimelshein,
      2018, "Online normalizer calculation for softmax".
    Differs from the paper: it folds pairs of mantissa and exponent, e^x = p 2^n, which saves a CPU the second e^x.
      There x - n log 2 is no longer exact from |x| = 2^15 on, where masks of attention begin; x - m is exact anywhere.
    """
    if x.ndim == 0:
        raise ShapeError("two_pass_softmax: a scalar has no axis to sum over; give it one")
    flat = matrix(x)
    return _run(flat, choice=choose("two_pass_softmax", implementation, flat)).reshape(x.shape)


@partial(jax.jit, static_argnames="choice")
def _run(x: Array, choice: Choice) -> Array:
    run = jax.custom_vjp(choice.function("two_pass_softmax"))
    run.defvjp(lambda x: (run(x),) * 2, lambda y, g: (slope(y, g),))
    return run(x)
