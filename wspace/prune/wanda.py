"""Wanda: prune by weights and activations, |w| times the size of the input it meets, ranked within each output."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from wspace.core.errors import WspaceError
from wspace.core.transform import Context, Transform, leafwise
from wspace.core.typing import Array
from wspace.prune.nm import check_pattern, nm_mask
from wspace.stats.quantile import count_of, largest_in_columns
from wspace.stats.side_gram import second_moments


def wanda_score(w: Array, moments: Array) -> Array:
    """|w_ij| sqrt(E x_i^2). w: `[..., in, out]`. moments: `[..., in]`, the diagonal of the Gram matrix."""
    return jnp.abs(w) * jnp.sqrt(moments)[..., None]


@jax.jit
def wanda_array(w: Array, moments: Array, keep: Array | int) -> Array:
    """w `[..., in, out]` with all but the `keep` inputs of largest score set to zero, for each output.

    moments: `[..., in]`, mean squares of the inputs. Of equal scores the first inputs stay.
    """
    return jnp.where(largest_in_columns(wanda_score(w, moments), keep), w, jnp.zeros((), w.dtype))


def wanda(sparsity: Array | float | None = None, n: int | None = None, m: int | None = None) -> Transform:
    """Zero the weights of smallest |w| times input norm, an equal share of each output, or in an n:m pattern.

        S_ij = |w_ij| sqrt(gram_ii),   gram = E x x^T
        w_ij <- w_ij * [S_ij is among the in - round(sparsity in) largest of S_:j]      (or the n largest of m inputs)

    Scope: leaf (1 pass). Needs: gram. Random: no. Output leaf: array, input dtype.

    Args:
      sparsity: fraction of zeros of every output, 0..1. Traced. Give it, or n and m.
      n, m: n of every m consecutive inputs stay. Static.
    Returns:
      Transform, 1 -> 1, for matrices; the taps of a convolution count as inputs.
    Raises:
      SideTreeError: no gram for a leaf, or of another shape than `[*stack, in, in]`.
      ShapeError: m does not divide the inputs (names the path and both numbers); a leaf that is no matrix.
      WspaceError: neither or both of sparsity and n:m; sparsity outside 0..1.
    Example:
      >>> w = jnp.array([[3.0], [2.0], [1.0]])
      >>> gram = jnp.diag(jnp.array([0.01, 1.0, 4.0]))
      >>> wanda(1 / 3)({"kernel": w}, gram={"kernel": gram})["kernel"].ravel()
      Array([0., 2., 1.], dtype=float32)

    Reference: Sun, Liu, Bair, Kolter, 2023, "A Simple and Effective Pruning Approach for Large Language Models".
    Differs from the paper: root mean square instead of the norm of an input, which ranks the same; the count of zeros
      is rounded to nearest, not down. Whether later layers see the pruned ones is a matter of how gram was made.
    """
    if (sparsity is None) == (n is None) or (n is None) != (m is None):
        raise WspaceError("wanda takes a sparsity, or n and m: wanda(0.5) or wanda(n=2, m=4)")

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Array:
        view = ctx.view()
        w = view.to_matrix(leaves[0])
        moments = second_moments(ctx, w)
        if n is not None and m is not None:
            check_pattern(w, n, m, ctx.spec.path)
            mask = nm_mask(wanda_score(w, moments), n, m)
            return view.from_matrix(jnp.where(mask, w, jnp.zeros((), w.dtype)))
        keep = w.shape[-2] - count_of(0 if sparsity is None else sparsity, w.shape[-2])
        return view.from_matrix(wanda_array(w, moments, keep))

    return leafwise("wanda", apply, needs=frozenset({"gram"}))
