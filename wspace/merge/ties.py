"""TIES merging: trim, elect sign, merge the agreeing entries of task vectors."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from wspace.core.compose import around_base, chain
from wspace.core.transform import Context, Transform, leafwise, per_model
from wspace.core.typing import Array
from wspace.stats.quantile import count_of, keep_largest


@jax.jit
def elect_array(deltas: Sequence[Array], weights: Array, lam: Array | float) -> Array:
    """Elect a sign per entry and average the entries of the task vectors that have it.

    deltas: n arrays of one shape. weights: [n].

        gamma = sgn(sum_t w_t d_t),   m = lam * sum_{t: sgn(w_t d_t) = gamma} w_t d_t / sum_{t: sgn(w_t d_t) = gamma} w_t
    """
    shares = [weights[t].astype(d.dtype) for t, d in enumerate(deltas)]
    weighted = [w * d for w, d in zip(shares, deltas, strict=True)]
    sign = jnp.sign(sum(weighted[1:], weighted[0]))
    agrees = [(jnp.sign(x) == sign) & (x != 0) for x in weighted]
    total = sum(jnp.where(yes, w, 0) for yes, w in zip(agrees, shares, strict=True))
    merged = sum(jnp.where(yes, x, 0) for yes, x in zip(agrees, weighted, strict=True))
    return jnp.asarray(lam, deltas[0].dtype) * merged / jnp.where(total == 0, 1, total)


def elect(weights: Sequence[float] | Array | None = None, lam: Array | float = 1.0) -> Transform:
    """The consensus step of TIES on its own: `elect_array` over n leaves (task vectors). See `ties`."""

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Array:
        return elect_array(leaves, per_model(weights, len(leaves)), lam)

    return leafwise("elect", apply, arity=None)


def ties(
    density: Array | float = 0.2, weights: Sequence[float] | Array | None = None, lam: Array | float = 1.0
) -> Transform:
    """Trim each task vector to its largest entries, elect a sign per entry, average the entries that agree.

        d_t = theta_t - base,   d_t <- d_t * [|d_t,i| is among the floor(density n) largest]
        theta = base + lam * elected mean (see `elect_array`)

    Scope: leaf (1 pass). Needs: base. Random: no. Output leaf: array, dtype of the first tree.

    Args:
      density: fraction of each task vector that stays, 0..1. Traced.
      weights: [n], weight of each model in sign election and mean; default all 1. Traced.
      lam: scale of the merged task vector. Traced.
    Returns:
      Transform, n -> 1.
    Raises:
      SideTreeError: no base. TreeMismatch: trees or base differ in structure.
      ShapeError: another number of weights than of models.
    Example:
      >>> base = {"w": jnp.zeros(4)}
      >>> a, b = {"w": jnp.array([4.0, 1.0, -2.0, 0.0])}, {"w": jnp.array([2.0, 0.5, 3.0, 0.0])}
      >>> ties(density=0.5)(a, b, base=base)["w"]
      Array([3., 0., 3., 0.], dtype=float32)
    Reference: Yadav, Tam, Choshen, Raffel, Bansal, 2023, "TIES-Merging: Resolving Interference When Merging Models".
    Differs from the paper: trims per leaf, not over the whole task vector (as mergekit does); weights are an addition.
    """

    def trimmed(leaves: tuple[Array, ...], ctx: Context) -> Array:
        return keep_largest(leaves[0], count_of(density, leaves[0].size, floor=True))

    return around_base(chain(leafwise("trim", trimmed), elect(weights, lam)), name="ties")
