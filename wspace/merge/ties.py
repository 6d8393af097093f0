"""TIES merging: trim, elect sign, merge the agreeing entries of task vectors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from wspace.core.compose import around_base, chain
from wspace.core.transform import Context, Transform, leafwise, of_model, per_model
from wspace.core.typing import Array
from wspace.stats.norms import with_norm
from wspace.stats.quantile import check_countable, count_of, keep_largest, largest_mask

Numbers = Sequence[float] | Array


@partial(jax.jit, static_argnames=("normalize", "positive"))
def elect_array(
    deltas: Sequence[Array], weights: Array, lam: Array | float, normalize: bool = True, positive: bool = False
) -> Array:
    """Elect a sign per entry and average (or, without `normalize`, add) the task vectors' entries that have it.

    deltas: n arrays of one shape. weights: [n]. positive: see `elected`.

        gamma = sgn(sum_t w_t d_t),   A = {t: sgn(w_t d_t) = gamma != 0},   m = lam * sum_A w_t d_t / sum_A w_t
    """
    shares = [weights[t].astype(d.dtype) for t, d in enumerate(deltas)]
    weighted = [w * d for w, d in zip(shares, deltas, strict=True)]
    sign = elected(sum(weighted[1:], weighted[0]), positive)
    agrees = [(jnp.sign(x) == sign) & (x != 0) for x in weighted]
    merged = jnp.asarray(lam, deltas[0].dtype) * sum(
        jnp.where(yes, x, 0) for yes, x in zip(agrees, weighted, strict=True)
    )
    if not normalize:
        return merged
    total = sum(jnp.where(yes, w, 0) for yes, w in zip(agrees, shares, strict=True))
    return merged / jnp.where(total == 0, 1, total)


def elected(total: Array, positive: bool) -> Array:
    """The sign of a sum, entry by entry: of a zero none, or plus if `positive`, as mergekit takes it."""
    return jnp.where(total < 0, -1, 1).astype(total.dtype) if positive else jnp.sign(total)


def elect(
    weights: Numbers | None = None, lam: Array | float = 1.0, normalize: bool = True, positive: bool = False
) -> Transform:
    """The consensus of TIES on its own: the agreeing entries of n task vectors, averaged.

    See `elect_array` for the formula and `ties` for the whole method; `dare(..., consensus=elect)` is DARE-TIES.

    Scope: leaf (1 pass). Needs: nothing. Random: no. Output leaf: array, dtype of the first tree.

    Args:
      weights: [n], of each tree in election and mean; default all 1. Traced.
      lam: scale of the result. Traced. normalize: divide by the agreeing weights. Static.
      positive: where the sum is exactly zero, take the positive entries, as mergekit does, instead of none. Static.
    Returns:
      Transform, n -> 1; its trees are task vectors.
    Raises:
      ShapeError: another number of weights than of trees.
    Example:
      >>> a, b, c = ({"w": jnp.array([x])} for x in (1.0, 3.0, -2.0))
      >>> elect()(a, b, c)["w"]
      Array([2.], dtype=float32)

    Reference: Yadav et al., 2023, "TIES-Merging: Resolving Interference When Merging Models".
    Differs from the paper: weights are an addition; an entry whose weighted sum is exactly zero becomes zero.
    """

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Array:
        return elect_array(leaves, per_model(weights, len(leaves)), lam, normalize, positive)

    return leafwise("elect", apply, arity=None)


def ties(
    density: Array | float | Sequence[float] = 0.2,
    weights: Numbers | None = None,
    lam: Array | float = 1.0,
    normalize: bool = True,
    rescale: bool = False,
    positive: bool = False,
) -> Transform:
    """Trim each task vector to its largest entries, elect a sign per entry, average the entries that agree.

        d_t = theta_t - base,   d_t <- d_t * [|d_t,i| is among the max(1, floor(density n)) largest]
        theta = base + lam * elected mean (see `elect_array`)

    Scope: leaf (1 pass). Needs: base. Random: no. Output leaf: array, dtype of the first tree.

    Args:
      density: fraction of each task vector that stays, 0..1, and 0 leaves nothing; a tuple gives each model its own.
        Traced, in steps.
      weights: [n], weight of each model in sign election and mean; default all 1. Traced.
      lam: scale of the merged task vector. Traced.
      normalize: divide by the weights that agree (the paper's disjoint mean), or add. Static.
      rescale: scale what stays to the L1 norm that the task vector's leaf had. Static.
      positive: where a weighted sum is exactly zero, take the positive entries, as mergekit does, instead of none:
        of models in bfloat16, some per cent of entries. Static.
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
    Differs from the paper: trims per leaf, not over the whole task vector, and leaves at least one entry of each (both
      as mergekit does); weights and rescale are additions; an entry whose weighted sum is exactly zero stays at base
      instead of taking the majority sign of the whole.
    """

    def trimmed(leaves: tuple[Array, ...], ctx: Context) -> Array:
        (d,) = leaves
        keep = _some(of_model(density, ctx), d.size)
        check_countable(d, ctx.spec)
        return with_norm(d, largest_mask(d, keep)) if rescale else keep_largest(d, keep)

    return around_base(chain(leafwise("trim", trimmed), elect(weights, lam, normalize, positive)), name="ties")


def _some(density: Array | float, size: int) -> Array | int:
    """How many entries stay: of a density above 0 at least one, else scalars and short vectors would never change."""
    n = count_of(density, size, floor=True)
    if isinstance(density, int | float):
        return max(int(n), 1) if density > 0 else 0
    return jnp.where(jnp.asarray(density) > 0, jnp.maximum(n, 1), 0).astype(jnp.uint32)
