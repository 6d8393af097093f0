"""Geometric median: the point with the least sum of distances to n models, which a minority can't drag away."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import combinations
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from wspace.core.errors import WspaceError
from wspace.core.fold import Fold
from wspace.core.totals import adds_up
from wspace.core.transform import Context, Transform, leafwise, per_model, working
from wspace.core.typing import Array

NEAREST = 1e-10  # of the largest distance; its square is a float32


def squared_distances_array(leaves: Sequence[Array]) -> Array:
    """`|x_j - x_k|^2` of n arrays of one shape, [n, n]: all that the shares of their median depend on."""
    return _square(wspace_squared_distances(*leaves), jnp.zeros((), leaves[0].dtype), len(leaves))


@adds_up
def wspace_squared_distances(*leaves: Array) -> dict[tuple[int, int], Array]:
    """Of each pair."""
    return {(j, k): jnp.sum((leaves[j] - leaves[k]) ** 2) for j, k in combinations(range(len(leaves)), 2)}


@partial(jax.jit, static_argnums=2)
def _square(apart: dict[tuple[int, int], Array], zero: Array, n: int) -> Array:
    return jnp.stack([jnp.stack([apart.get((min(j, k), max(j, k)), zero) for k in range(n)]) for j in range(n)])


@partial(jax.jit, static_argnames="max_iter")
def weiszfeld_array(squares: Array, weights: Array, max_iter: int = 100) -> Array:
    """The shares s, [n], of n points in their weighted geometric median, from their squared distances D, [n, n].

        x = sum_k s_k x_k,   s_k <- w_k / |x - x_k|,   s <- s / sum s
        |x - x_k|^2 = sum_ij s_i s_j <x_i - x_k, x_j - x_k> = sum_ij s_i s_j (D_ik + D_jk - D_ij) / 2

    weights: w, [n], at least 0. A distance counts as at least NEAREST of the largest one between two points.
    """
    n, weights = squares.shape[0], weights.astype(squares.dtype)
    given = jnp.sum(weights)
    start = jnp.where(given > 0, weights / jnp.where(given > 0, given, 1), 1 / n)
    largest = jnp.max(squares)
    squares = squares / jnp.where(largest > 0, largest, 1)
    seen_from = (squares[:, :, None] + squares[:, None, :] - squares[None]) / 2  # exact where i or j is k

    def step(_: Array, s: Array) -> Array:
        distances = jnp.sqrt(jnp.maximum(jnp.einsum("kij,i,j->k", seen_from, s, s), NEAREST**2))
        pull = weights / distances
        total = jnp.sum(pull)
        return jnp.where(total > 0, pull / jnp.where(total > 0, total, 1), s)

    return lax.fori_loop(0, max_iter, step, start)


@jax.jit
def _mix(leaves: Sequence[Array], shares: Array) -> Array:
    parts = [shares[k].astype(x.dtype) * x for k, x in enumerate(leaves)]
    return sum(parts[1:], parts[0])


def geometric_median(
    weights: Sequence[float] | Array | None = None, scope: Literal["leaf", "tree"] = "leaf", max_iter: int = 100
) -> Transform:
    """The point with the least weighted sum of distances to n models: their median, whatever the axes.

        theta = argmin_x sum_k w_k |x - theta_k|

    Weiszfeld's iteration, of which every iterate is a mean of the models: so it runs on n shares alone: leaves are
    read once for their distances and once to be mixed. Models that hold more than half of the weight, all in one
    point, are the median, however far away the others are.

    Scope: leaf (1 pass), or global (2 passes) with scope="tree". Needs: nothing. Random: no. Output leaf: array, dtype
    of the first tree.

    Args:
      weights: [n], at least 0; default all 1. Traced.
      scope: "leaf" for a median of each leaf, "tree" for one of whole models. Static.
      max_iter: steps of the iteration; they cost n^2 each. Static.
    Returns:
      Transform, n -> 1. Task vectors around a base have the same median, moved.
    Raises:
      ShapeError: another number of weights than of trees. WspaceError: a weight below 0 (an array is not looked at),
        another word for scope, max_iter below 1.
    Example:
      >>> a, b, c = ({"w": jnp.array([x, 0.0])} for x in (1.0, 1.0, 100.0))
      >>> geometric_median()(a, b, c)["w"].round(2)
      Array([1., 0.], dtype=float32)

    Reference: Weiszfeld, 1937, "Sur le point pour lequel la somme des distances de n points donnes est minimum"; of
      models, Gupta, Gupta, 2024, "Model Merging using Geometric Median of Task Vectors".
    Differs from the paper: it merges the factors of LoRA adapters, leaf by leaf; this takes any leaves. Weights and the
      median of whole trees are additions. A distance has a floor relative to the largest one, theirs is 1e-10.
    """
    if scope not in ("leaf", "tree") or max_iter < 1:
        raise WspaceError(
            f"geometric_median: scope {scope!r}, max_iter {max_iter}; scope is 'leaf' or 'tree', max_iter at least 1"
        )
    if isinstance(weights, list | tuple) and any(isinstance(w, int | float) and not w >= 0 for w in weights):
        raise WspaceError(f"geometric_median: the weights {list(weights)} are not all at least 0: give others")

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Array:
        if len(leaves) == 1:
            return leaves[0]
        squares = ctx.summaries[0] if scope == "tree" else squared_distances_array(leaves)
        return _mix(leaves, weiszfeld_array(squares, per_model(weights, len(leaves)), max_iter))

    def lift(leaves: tuple[Array, ...], ctx: Context) -> Array:
        return squared_distances_array([working(x) for x in leaves]).astype(jnp.result_type(float))

    folds = (Fold(lift, jnp.add),) if scope == "tree" else ()
    return leafwise("geometric_median", apply, arity=None, folds=folds)
