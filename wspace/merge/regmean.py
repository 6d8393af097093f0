"""RegMean: of every linear layer, the weights whose outputs are nearest to those of each model on its own data."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from wspace.core.transform import Context, Transform, leafwise, over_stack, per_model
from wspace.core.typing import Array
from wspace.merge.fisher import fisher_array
from wspace.stats.gram import Diagonal
from wspace.stats.sharding import alike, gathered
from wspace.stats.side_gram import grams_of


@jax.jit
def regmean_array(
    leaves: Sequence[Array], grams: Sequence[Array], weights: Array, alpha: Array | float, damp: Array | float = 0.0
) -> Array:
    """The minimum over W of `sum_k w_k (W - W_k)' G_k (W - W_k)`, traced, with G_k <- alpha G_k + (1 - alpha) diag G_k.

        W = M + (sum_k w_k G_k)^-1 sum_k w_k G_k (W_k - M),   M = mean of W_k

    leaves: n matrices [in, out]. grams: n of [in, in]. weights: w, [n]. damp is added to the diagonal of the sum, as a
    fraction of its mean, and pulls to M. An input that no model has seen keeps M. NaN if the sum is singular.
    """
    dtype = leaves[0].dtype
    shares, alpha, damp = weights.astype(dtype), jnp.asarray(alpha, dtype), jnp.asarray(damp, dtype)
    mean = sum(leaves[1:], leaves[0]) / len(leaves)
    own = jnp.eye(len(mean), dtype=bool)
    shrunk = [shares[k] * jnp.where(own, g, alpha * g) for k, g in enumerate(grams)]
    pulls = [jnp.matmul(g, w - mean, precision=lax.Precision.HIGHEST) for g, w in zip(shrunk, leaves, strict=True)]
    total = sum(shrunk[1:], shrunk[0])
    diagonal = jnp.diagonal(total)
    seen = jnp.where(diagonal == 0, 1, diagonal + damp * jnp.mean(diagonal))
    factor = jnp.linalg.cholesky(jnp.where(own, seen[:, None], total), symmetrize_input=False)
    rounding = 4 * len(mean) ** 0.5 * jnp.finfo(dtype).eps  # a pivot that is no more says that there is none
    factor = jnp.where((jnp.diagonal(factor) ** 2 > rounding * seen).all(), factor, jnp.asarray(jnp.nan, dtype))
    return mean + jax.scipy.linalg.cho_solve((factor, True), sum(pulls[1:], pulls[0]))


def regmean(
    alpha: Array | float = 0.9, weights: Sequence[float] | Array | None = None, damp: Array | float = 0.0
) -> Transform:
    """Merge linear layers by least squares: outputs near to those of each model on the inputs it was calibrated on.

        min_W sum_k w_k |X_k W - X_k W_k|^2:   W = (sum_k w_k G_k)^-1 sum_k w_k G_k W_k,   G_k = X_k' X_k
        G_k <- alpha G_k + (1 - alpha) diag G_k

    `regmean_plusplus` calibrates on what the merged layers before it give.

    Scope: leaf (1 pass). Needs: gram (a tuple, one tree a model). Random: no. Output leaf: array, dtype of the first
    tree.

    Sharding: outputs are solved apart; a leaf whose inputs are sharded is gathered, and its Gram matrices always are.

    Args:
      alpha: factor of the entries of G off its diagonal, 0..1; 0 weighs each input by its mean square alone. Traced.
      weights: [n], such as numbers of tokens, since `gram` is a mean over them; default all 1. Traced.
      damp: what is added to the diagonal of the summed G, as a fraction of its mean; pulls to the mean of the models.
        Traced.
    Returns:
      Transform, n -> 1, for matrices; the others are the caller's: `on(matrices, regmean(), otherwise=uniform_soup())`.
      Looked-up tables, whose Gram matrix is a `Diagonal`, are averaged row by row. If the summed G is singular (alpha
      is 1 and there are fewer tokens than inputs), all weights are NaN: lower alpha or raise damp.
    Raises:
      SideTreeError: no gram, not one a model, nothing for a leaf, or another shape than `[*stack, in, in]`.
      ShapeError: a leaf that is no matrix; another number of weights than of trees.
    Example:
      >>> a, b = {"kernel": jnp.array([[1.0], [1.0]])}, {"kernel": jnp.array([[3.0], [3.0]])}
      >>> first, both = {"kernel": jnp.diag(jnp.array([3.0, 1.0]))}, {"kernel": jnp.eye(2)}
      >>> regmean()(a, b, gram=(first, both))["kernel"]
      Array([[1.5],
             [2. ]], dtype=float32)

    Reference: Jin, Ren, Preotiuc-Pietro, Cheng, 2023, "Dataless Knowledge Fusion by Merging Weights of Language
      Models".
    Differs from the paper: G is a mean over tokens, as in its code, where the text has the sum (see weights). Inputs
      that no model has seen keep the mean of the models. damp is an addition.
    """

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Array:
        view = ctx.view()
        matrices = [view.to_matrix(x) for x in leaves]
        shares, sides = per_model(weights, len(leaves)), ctx.each("gram")
        if all(isinstance(g, Diagonal) for g in sides):
            squares = [g.diagonal[..., None].astype(w.dtype) for g, w in zip(sides, matrices, strict=True)]
            rows = [jnp.broadcast_to(d, matrices[0].shape) for d in squares]
            return view.from_matrix(fisher_array(matrices, rows, shares, 0.0))
        grams = [gathered(gathered(g, -1), -2) for g in grams_of(ctx, matrices[0])]

        def one(ws: Sequence[Array], gs: Sequence[Array]) -> Array:
            return regmean_array(ws, gs, shares, alpha, damp)

        merged = over_stack(one, view.stacks)([gathered(w, -2) for w in matrices], grams)
        return view.from_matrix(alike(merged, matrices[0]))

    return leafwise("regmean", apply, arity=None, needs=frozenset({"gram"}))
