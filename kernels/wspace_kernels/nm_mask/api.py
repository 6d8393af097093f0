"""Of every m inputs the n largest, beside two bits each that say which they were."""

from __future__ import annotations

from functools import partial

import jax

from wspace.core.errors import ShapeError
from wspace.core.typing import Array
from wspace_kernels.dispatch import Choice, Implementation, choose, with_gradient_of
from wspace_kernels.nm_mask import ref


def nm_pack(
    w: Array, score: Array | None = None, *, n: int = 2, m: int = 4, implementation: Implementation = None
) -> tuple[Array, Array]:
    """Keep n of every m consecutive inputs, as `wspace.prune.nm` does, and store nothing else, in one pass.

        values_pgo = w_{gm + i_p, o},   i_1 < .. < i_n the places of the n largest |score| of group g
        indices_bo: the i_p of the groups b, b + B, .., two bits each, low bits first

    Args:
      w: `[..., in, out]`, floating. Gradients reach it through the values.
      score: what is ranked, of the same shape; None: w. Of equal magnitudes the first stay. Traced, in steps.
      n, m: 1 <= n <= m <= 4. Static.
      implementation: None, "ref", "tpu" or "gpu". Static.
    Returns:
      values `[..., n, in/m, out]` of w's dtype: a slot of all groups after the other.
      indices uint8 `[..., B, out]`, B = in/m / (4 // n): of a 2:4 pattern two groups share a byte.
    Raises:
      ShapeError: no pattern of two bits; inputs that are no whole bytes; a score of another shape. As
        `dispatch.choose` for a named implementation.
    Example:
      >>> w = jax.numpy.array([[1.0, -3.0, 2.0, 2.0, 0.0, 5.0, 0.0, 0.0]]).T
      >>> values, indices = nm_pack(w)
      >>> values[..., 0], indices[..., 0]  # 1, 2 of the first group, 0, 1 of the second: 0b01_00_10_01
      (Array([[-3.,  0.],
             [ 2.,  5.]], dtype=float32), Array([73], dtype=uint8))

    Reference: Mishra, Latorre, Pool, Stosic, Stosic, Venkatesh, Yu, Micikevicius, 2021, "Accelerating Sparse Deep
      Neural Networks".
    Differs from the paper: the order of values and indices is ours, not that of sparse tensor cores.
    """
    if not 1 <= n <= m <= 4:
        raise ShapeError(f"nm_pack: {n}:{m} is no pattern of two bits; use 1 <= n <= m <= 4")
    if w.ndim < 2 or not w.size or w.shape[-2] % (m * ref.groups_in_a_byte(n)):
        raise ShapeError(
            f"nm_pack: a byte holds {ref.groups_in_a_byte(n)} groups of {n}:{m}, but w is {w.shape}; "
            f"use inputs that {m * ref.groups_in_a_byte(n)} divides"
        )
    if score is not None and score.shape != w.shape:
        raise ShapeError(f"nm_pack: score has shape {score.shape}, w {w.shape}; give them one shape")
    flat = [None if x is None else x.reshape(-1, *x.shape[-2:]) for x in (w, score)]
    choice = choose("nm_mask", implementation, *flat, n=n, m=m)
    values, indices = _run(*flat, choice=choice, n=n, m=m)
    stack = w.shape[:-2]
    return values.reshape(*stack, *values.shape[1:]), indices.reshape(*stack, *indices.shape[1:])


@partial(jax.jit, static_argnames=("choice", "n", "m"))
def _run(w: Array, score: Array | None, choice: Choice, n: int, m: int) -> tuple[Array, Array]:
    reference = choice._replace(name="ref").function("nm_pack", n=n, m=m)
    if choice.name == "ref":
        return reference(w, score)
    return with_gradient_of(reference, choice.function("nm_pack", n=n, m=m))(w, score)


@partial(jax.jit, static_argnames=("m",))
def nm_unpack(values: Array, indices: Array, *, m: int = 4) -> Array:
    """The inverse of `nm_pack`: `[..., in, out]` with zeros where nothing was kept. Plain XLA everywhere.

    Example:
      >>> w = jax.numpy.array([[1.0, -3.0, 2.0, 2.0, 0.0, 5.0, 0.0, 0.0]]).T
      >>> nm_unpack(*nm_pack(w))[:, 0]
      Array([ 0., -3.,  2.,  0.,  0.,  5.,  0.,  0.], dtype=float32)
    """
    return ref.nm_unpack(values, indices, m=m)
