"""Multi-SLERP: a weighted mean of directions on the sphere, in one step through the tangent space at their mean."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from wspace.core.transform import Context, Transform, leafwise, per_model
from wspace.core.typing import Array
from wspace.stats.norms import length


@jax.jit
def multislerp_array(
    leaves: Sequence[Array], weights: Array, normalize: Array | bool = True, eps: Array | float = 1e-8
) -> Array:
    """The weighted mean of n arrays of one shape and dtype, by direction and length apart; weights: [n].

        u_k = x_k / (|x_k| + eps),   m = sum_k w_k u_k / |sum_k w_k u_k|
        v = sum_k w_k (u_k - <u_k, m> m),   |v| here: |v| + eps
        out = (cos|v| m + sin|v| v / |v|) sum_k w_k |x_k|

    Where the directions cancel out (|sum_k w_k u_k| < eps) it is `sum_k w_k x_k`.
    """
    weights, eps = weights.astype(leaves[0].dtype), jnp.asarray(eps, leaves[0].dtype)
    total = jnp.sum(weights)
    weights = jnp.where(normalize & (total != 0), weights / jnp.where(total == 0, 1, total), weights)
    shares = [weights[k] for k in range(len(leaves))]
    norms = [length(x) for x in leaves]
    units = [x / jnp.where(n + eps > 0, n + eps, 1) for x, n in zip(leaves, norms, strict=True)]
    mean = _sum(shares, units)
    size = length(mean)
    there = (size >= eps) & (size > 0)
    mean = mean / jnp.where(there, size, 1)
    tangent = _sum(shares, [u - jnp.sum(u * mean) * mean for u in units])
    turn = length(tangent) + eps
    direction = mean * jnp.cos(turn) + tangent * (jnp.sin(turn) / jnp.where(turn > 0, turn, 1))
    return jnp.where(there, direction * _sum(shares, norms), _sum(shares, leaves))


def _sum(shares: Sequence[Array], parts: Sequence[Array]) -> Array:
    each = [w * x for w, x in zip(shares, parts, strict=True)]
    return sum(each[1:], each[0])


def multislerp(
    weights: Sequence[float] | Array | None = None, normalize: Array | bool = True, eps: Array | float = 1e-8
) -> Transform:
    """The weighted mean of n trees on the sphere: directions through the tangent space, lengths by their mean.

    See `multislerp_array` for the formula. That of task vectors, which mergekit does if it is given a base, is
    `around_base(multislerp(...))`.

    Scope: leaf (1 pass). Needs: nothing. Random: no. Output leaf: array, dtype of the first tree.

    Args:
      weights: [n], default all 1. Traced.
      normalize: divide the weights by their sum; by nothing, if that is zero. Traced, in steps.
      eps: added to norms, and below which directions cancel out. Traced.
    Returns:
      Transform, n -> 1; one tree is itself. Where directions cancel out, the plain weighted sum.
    Raises:
      ShapeError: another number of weights than of trees.
    Example:
      >>> a, b = {"w": jnp.array([2.0, 0.0])}, {"w": jnp.array([0.0, 4.0])}
      >>> multislerp()(a, b)["w"]  # the direction between them, of length 3
      Array([2.121..., 2.121...], dtype=float32)

    Reference: Goddard, 2025, "Multi-SLERP" (the author of mergekit, in its documentation of `multislerp`).
    Differs from the paper: where directions cancel out, mergekit raises an error for more than two models.
    """

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Array:
        own = per_model(weights, len(leaves))
        return leaves[0] if len(leaves) == 1 else multislerp_array(leaves, own, normalize, eps)

    return leafwise("multislerp", apply, arity=None)
