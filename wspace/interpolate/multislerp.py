"""Multi-SLERP: a weighted mean of directions on the sphere, in one step through the tangent space at their mean."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from wspace.core.totals import adds_up
from wspace.core.transform import Context, Transform, leafwise, per_model
from wspace.core.typing import Array
from wspace.stats.norms import length


def multislerp_array(
    leaves: Sequence[Array], weights: Array, normalize: Array | bool = True, eps: Array | float = 1e-8
) -> Array:
    """The weighted mean of n arrays of one shape and dtype, by direction and length apart; weights: [n].

        u_k = x_k / (|x_k| + eps),   m = sum_k w_k u_k / |sum_k w_k u_k|
        v = sum_k w_k (u_k - <u_k, m> m),   |v| here: |v| + eps
        out = (cos|v| m + sin|v| v / |v|) sum_k w_k |x_k|

    Where the directions cancel out (|sum_k w_k u_k| < eps) it is `sum_k w_k x_k`.
    """
    eps = jnp.asarray(eps, leaves[0].dtype)
    shares = _shares(weights.astype(leaves[0].dtype), normalize)
    norms = [length(x) for x in leaves]
    each = _over(shares, norms, eps)
    mean = _sum(each, leaves)  # m, times its length
    size, along = length(mean), wspace_along(mean, *leaves)
    tangent = _tangent(leaves, mean, each, size, along, eps)
    return _turned(leaves, mean, tangent, shares, norms, size, length(tangent), eps)


@adds_up
def wspace_along(x: Array, *others: Array) -> tuple[Array, ...]:
    """The inner product of an array with each of some others."""
    return tuple(jnp.sum(x * y) for y in others)


@jax.jit
def _shares(weights: Array, normalize: Array | bool) -> list[Array]:
    total = jnp.sum(weights)
    return list(jnp.where(normalize & (total != 0), weights / jnp.where(total == 0, 1, total), weights))


@jax.jit
def _over(shares: Sequence[Array], norms: Sequence[Array], eps: Array) -> list[Array]:
    return [w / jnp.where(n + eps > 0, n + eps, 1) for w, n in zip(shares, norms, strict=True)]


@jax.jit
def _tangent(
    leaves: Sequence[Array], mean: Array, each: Sequence[Array], size: Array, along: Sequence[Array], eps: Array
) -> Array:
    squared = jnp.where(_is_there(size, eps), size, 1) ** 2
    back = [e * p / squared for e, p in zip(each, along, strict=True)]
    return _sum(each, leaves) - sum(back[1:], back[0]) * mean


@jax.jit
def _turned(
    leaves: Sequence[Array],
    mean: Array,
    tangent: Array,
    shares: Sequence[Array],
    norms: Sequence[Array],
    size: Array,
    turn: Array,
    eps: Array,
) -> Array:
    there, turn = _is_there(size, eps), turn + eps
    sine = jnp.sin(turn) / jnp.where(turn > 0, turn, 1)
    direction = mean * (jnp.cos(turn) / jnp.where(there, size, 1)) + tangent * sine
    return jnp.where(there, direction * _sum(shares, norms), _sum(shares, leaves))


def _is_there(size: Array, eps: Array) -> Array:
    return (size >= eps) & (size > 0)


@jax.jit
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
