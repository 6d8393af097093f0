"""Magnitude pruning: the smallest |w| of a leaf go to zero."""

from __future__ import annotations

from wspace.core.transform import Context, Transform, leafwise
from wspace.core.typing import Array
from wspace.stats.quantile import count_of, keep_largest


def magnitude_array(w: Array, sparsity: Array | float) -> Array:
    """w with its round(sparsity * w.size) smallest magnitudes set to zero.

    w: floating array of any shape. Of equal magnitudes the first in row-major order stay.
    """
    pruned = count_of(sparsity, w.size)
    return keep_largest(w, w.size - pruned)


def magnitude(sparsity: Array | float) -> Transform:
    """Zero the fraction `sparsity` of each leaf that has the smallest magnitudes.

        w_i <- w_i * [|w_i| is among the n - round(sparsity n) largest]

    Scope: leaf (1 pass). Needs: nothing. Random: no. Output leaf: array, input dtype.

    Args:
      sparsity: fraction of zeros, 0..1. Traced.
    Returns:
      Transform, 1 -> 1. Exactly round(sparsity * size) entries of every leaf are set to zero.
    Raises:
      ShapeError: a leaf of more than 2^32 - 1 elements.
    Example:
      >>> import jax.numpy as jnp
      >>> magnitude(0.5)({"kernel": jnp.array([[1.0, -4.0], [3.0, 2.0]])})["kernel"]
      Array([[ 0., -4.],
             [ 3.,  0.]], dtype=float32)

    Reference: Han, Pool, Tran, Dally, 2015, "Learning both Weights and Connections for Efficient Neural Networks".
    Differs from the paper: the count is given instead of a multiple of the layer's standard deviation.
    """

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Array:
        return magnitude_array(leaves[0], sparsity)

    return leafwise("magnitude", apply)
