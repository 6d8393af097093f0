"""a^T b[permutation]: the matrix that an assignment problem of weight matching asks for."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from wspace.core.errors import ShapeError
from wspace.core.typing import Array
from wspace_kernels.dispatch import Choice, Implementation, choose, with_gradient_of


def permute_gather(a: Array, b: Array, permutation: Array, *, implementation: Implementation = None) -> Array:
    """What two models gain if unit i of one stands for unit j of the other, with a neighbouring group permuted.

        gain_ij = sum_k a_ki b_{permutation_k, j}

    The weights of one leaf are a and b, `[in, out]`; the inputs of b are read in the order that a's have.

    Args:
      a: `[rows, n]`. b: `[others, m]`, floating, of one dtype. Gradients reach both.
      permutation: int32 `[rows]`, 0 .. others - 1; any rows of b, also twice. Outside of that: undefined.
      implementation: None, "ref", "tpu" or "gpu". Static.
    Returns:
      float32 `[n, m]` (float64 if a and b are), summed in it.
    Raises:
      ShapeError: shapes or dtypes that do not fit. As `dispatch.choose` for a named implementation.
    Example:
      >>> permute_gather(jnp.array([[1.0], [2.0]]), jnp.array([[3.0, 0.0], [5.0, 1.0]]), jnp.array([1, 0]))
      Array([[11.,  1.]], dtype=float32)

    Reference: Ainsworth, Hayase, Srinivasa, 2023, "Git Re-Basin: Merging Models modulo Permutation Symmetries",
      Algorithm 1.
    Differs from the paper: none; this is one summand of its assignment problem.
    """
    if a.ndim != 2 or b.ndim != 2 or a.dtype != b.dtype or permutation.shape != a.shape[:1]:
        raise ShapeError(
            f"permute_gather: a {a.dtype}{list(a.shape)}, b {b.dtype}{list(b.shape)} and permutation "
            f"{list(permutation.shape)} do not fit; wanted [rows, n], [others, m] of one dtype, [rows]"
        )
    if not jnp.issubdtype(permutation.dtype, jnp.integer) or not jnp.issubdtype(a.dtype, jnp.floating):
        raise ShapeError(
            f"permute_gather: {permutation.dtype} are no places or {a.dtype} no weights; use int32, float32"
        )
    args = (a, b, permutation.astype(jnp.int32))
    return _run(*args, choice=choose("permute_gather", implementation, *args))


@partial(jax.jit, static_argnames="choice")
def _run(a: Array, b: Array, permutation: Array, choice: Choice) -> Array:
    reference = choice._replace(name="ref").function("permute_gather")
    if choice.name == "ref":
        return reference(a, b, permutation)
    return with_gradient_of(reference, choice.function("permute_gather"))(a, b, permutation)
