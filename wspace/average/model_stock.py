"""Model Stock: from the angle between fine-tuned models, how far from their base to their mean the best point lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations, combinations_with_replacement

import jax
import jax.numpy as jnp

from wspace.core.compose import around_base
from wspace.core.errors import ShapeError
from wspace.core.totals import adds_up
from wspace.core.transform import Context, Transform, leafwise
from wspace.core.typing import Array
from wspace.stats.norms import root

SMALLEST = 1e-6  # a denominator below which task vectors cancel out: mergekit's number


def model_stock_array(deltas: Sequence[Array], axis: int | None = None, floor: Array | float = 0.0) -> Array:
    """`t` times the mean of n >= 2 task vectors of one shape, with t from their mean cosine.

        t = n c / (1 + (n - 1) c),   c = mean over pairs of <d_i, d_j> / max(|d_i| |d_j|, floor)

    axis: None for one angle a leaf, or the axis that each filter's entries lie along.
    """
    products = wspace_gram(*deltas) if axis is None else _along(deltas, axis)
    return _part_of_mean(deltas, _share(products, len(deltas), floor))


@adds_up
def wspace_gram(*deltas: Array) -> dict[tuple[int, int], Array]:
    """The inner products of all pairs, an array with itself too: (i, j) with i <= j."""
    return _products(deltas)


@partial(jax.jit, static_argnames="axis")
def _along(deltas: Sequence[Array], axis: int) -> dict[tuple[int, int], Array]:
    """The same along an axis, which stays."""
    return _products(deltas, axis)


def _products(deltas: Sequence[Array], axis: int | None = None) -> dict[tuple[int, int], Array]:
    pairs = combinations_with_replacement(range(len(deltas)), 2)
    return {(i, j): jnp.sum(deltas[i] * deltas[j], axis=axis, keepdims=axis is not None) for i, j in pairs}


@partial(jax.jit, static_argnames="n")
def _share(products: Mapping[tuple[int, int], Array], n: int, floor: Array | float) -> Array:
    """How far towards the mean of n: t, a scalar or one number a filter."""
    norms = [root(products[i, i]) for i in range(n)]
    floor = jnp.asarray(floor, norms[0].dtype)

    def cosine(i: int, j: int) -> Array:
        below = jnp.maximum(norms[i] * norms[j], floor)
        return products[i, j] / jnp.where(below > 0, below, 1)

    cosines = [cosine(i, j) for i, j in combinations(range(n), 2)]
    c = sum(jnp.clip(x, -1, 1) for x in cosines[1:]) + jnp.clip(cosines[0], -1, 1)
    c = c / len(cosines)
    below = 1 + (n - 1) * c
    return jnp.where(below > SMALLEST, n * c / jnp.where(below > SMALLEST, below, 1), 0)


@jax.jit
def _part_of_mean(deltas: Sequence[Array], t: Array) -> Array:
    return t * (sum(deltas[1:], deltas[0]) / len(deltas))


def model_stock(axis: int | None = None, floor: Array | float = 0.0) -> Transform:
    """Of n fine-tuned models and their base, the point between base and mean that is nearest to the centre of all runs.

        theta = t mean_k theta_k + (1 - t) base,   t = n c / (1 + (n - 1) c),   c = mean cosine of two task vectors

    Scope: leaf (1 pass). Needs: base. Random: no. Output leaf: array, dtype of the first tree.

    Args:
      axis: None takes one angle a leaf ("layer-wise"). A number takes one a filter: the axis along which the entries of
        a filter lie, -1 for torch's `[out, in]`, -2 for `[in, out]`; leaves of fewer axes count as one filter. Static.
      floor: what the product of two norms counts as at least, in squared weight units; mergekit's is 1e-6, which makes
        task vectors shorter than 1e-3 look orthogonal. Traced, in steps.
    Returns:
      Transform, n -> 1. Parallel task vectors give the mean (t = 1), orthogonal ones the base (t = 0); opposite ones
      point away from the mean (t < 0, and far away near c = -1 / (n - 1)), and where they cancel out the base stays.
    Raises:
      SideTreeError: no base. TreeMismatch: trees or base differ in structure. ShapeError: fewer than two models.
    Example:
      >>> base, a, b = ({"w": jnp.array(w)} for w in ([0.0, 0.0], [3.0, 1.0], [1.0, 3.0]))
      >>> model_stock()(a, b, base=base)["w"]  # cosine 0.6, so t = 0.75
      Array([1.5, 1.5], dtype=float32)

    Reference: Jang, Yun, Han, 2024, "Model Stock: All we need is just a few fine-tuned models".
    Differs from the paper: for more than two models c is the mean over pairs, which the paper leaves open (as in
      mergekit). The paper repeats the merge during training; that loop is the caller's.
    """

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Array:
        if len(leaves) < 2:
            raise ShapeError(f"model_stock: {ctx.spec.path} comes from one model; an angle needs at least two")
        return model_stock_array(leaves, filter_axis(axis, leaves[0].ndim), floor)

    return around_base(leafwise("model_stock", apply, arity=None), name="model_stock")


def filter_axis(axis: int | None, ndim: int) -> int | None:
    """The axis, or None for a leaf that has no such axis or no other: it is one filter."""
    return axis if axis is not None and ndim > 1 and -ndim <= axis < ndim else None
