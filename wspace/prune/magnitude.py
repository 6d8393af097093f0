"""Magnitude pruning: the smallest |w| go to zero, of each leaf or of the whole tree."""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp

from wspace.core.errors import WspaceError
from wspace.core.transform import Context, Transform, leafwise, working
from wspace.core.typing import Array, Leaf
from wspace.stats.quantile import count_of, keep_largest
from wspace.stats.ranking import ranking, stays


def magnitude_array(w: Array, sparsity: Array | float) -> Array:
    """w with its round(sparsity * w.size) smallest magnitudes set to zero.

    w: floating array of any shape. Of equal magnitudes the first in row-major order stay.
    """
    pruned = count_of(sparsity, w.size)
    return keep_largest(w, w.size - pruned)


def magnitude(sparsity: Array | float, scope: Literal["leaf", "global"] = "leaf") -> Transform:
    """Zero the fraction `sparsity` of each leaf, or of the whole tree, that has the smallest magnitudes.

        w_i <- w_i * [|w_i| is among the N - round(sparsity N) largest],   N = size of the leaf | of all leaves

    Scope: leaf (1 pass), or global (4 passes). Needs: nothing. Random: no. Output leaf: array, input dtype.

    Args:
      sparsity: fraction of zeros, 0..1. Traced.
      scope: "leaf" prunes every leaf by the same fraction; "global" has one threshold for all leaves, so that some
        lose more than others. Static.
    Returns:
      Transform, 1 -> 1. Exactly round(sparsity N) entries are set to zero: of equal magnitudes the first stay, in
      row-major order and, over the tree, in the order of the paths. NaN stays.
    Raises:
      ShapeError: a leaf of more than 2^32 - 1 elements. WspaceError: sparsity outside 0..1, an unknown scope.
    Example:
      >>> import jax.numpy as jnp
      >>> w = {"a": jnp.array([1.0, -4.0]), "b": jnp.array([3.0, 5.0])}
      >>> magnitude(0.5)(w)
      {'a': Array([ 0., -4.], dtype=float32), 'b': Array([0., 5.], dtype=float32)}
      >>> magnitude(0.25, scope="global")(w)
      {'a': Array([ 0., -4.], dtype=float32), 'b': Array([3., 5.], dtype=float32)}

    Reference: Han, Pool, Tran, Dally, 2015, "Learning both Weights and Connections for Efficient Neural Networks".
    Differs from the paper: the count is given instead of a multiple of the layer's standard deviation. Globally,
      float64 leaves are ranked by their float32 value, so that leaves of all dtypes have one order.
    """
    if scope == "global":
        return _of_tree(sparsity)
    if scope != "leaf":
        raise WspaceError(f"magnitude has no scope {scope!r}; use 'leaf' or 'global'")

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Array:
        return magnitude_array(leaves[0], sparsity)

    return leafwise("magnitude", apply)


def _of_tree(sparsity: Array | float) -> Transform:
    def score(leaves: tuple[Leaf, ...], ctx: Context) -> Array:
        return working(leaves[0])

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Array:
        return jnp.where(stays(leaves[0], ctx), leaves[0], jnp.zeros((), leaves[0].dtype))

    return leafwise("magnitude(global)", apply, folds=ranking(score, sparsity))
