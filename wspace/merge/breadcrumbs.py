"""Model Breadcrumbs: mask both ends of a task vector, the outliers and the small entries, then merge."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from wspace.core.compose import around_base, chain
from wspace.core.transform import Context, Transform, leafwise, of_model
from wspace.core.typing import Array
from wspace.merge.task_arithmetic import weighted_sum
from wspace.stats.norms import with_norm
from wspace.stats.quantile import check_countable, count_of, largest_codes, magnitude_bits


def crumbs_array(w: Array, keep: Array | int, outliers: Array | int, rescale: bool = False) -> Array:
    """w with its `outliers` largest magnitudes and all but the `keep` next ones set to zero.

    w: floating array of any shape. keep + outliers: at most w.size. rescale: give the rest the L1 norm that w had.
    """
    mask = _between(w, jnp.asarray(keep, jnp.uint32), jnp.asarray(outliers, jnp.uint32))
    return with_norm(w, mask) if rescale else jnp.where(mask, w, jnp.zeros((), w.dtype))


@jax.jit
def _between(w: Array, keep: Array, outliers: Array) -> Array:
    codes = magnitude_bits(w)
    return largest_codes(codes, keep + outliers) & ~largest_codes(codes, outliers)


def crumbs(
    density: Array | float | Sequence[float],
    gamma: Array | float | Sequence[float] = 0.01,
    rescale: bool = False,
) -> Transform:
    """Zero the largest entries of each leaf and the smallest ones: what Breadcrumbs does with a task vector.

        of the entries by falling magnitude: floor(gamma n) go, the next floor(density n) stay, the rest goes

    Scope: leaf (1 pass). Needs: nothing. Random: no. Output leaf: array, input dtype.

    Args:
      density: fraction that stays, 0..1; a tuple gives each tree of a chain its own. 1 changes nothing. Traced, in
        steps.
      gamma: fraction of outliers that go, 0..1, or a tuple; where density + gamma is above 1, fewer go. Traced, in
        steps.
      rescale: scale what stays to the L1 norm that the leaf had. Static.
    Returns:
      Transform, 1 -> 1.
    Raises:
      WspaceError: a fraction outside 0..1. ShapeError: a leaf of more than 2^32 - 1 elements.
    Example:
      >>> crumbs(density=0.5, gamma=0.25)({"w": jnp.array([9.0, -2.0, 3.0, 1.0])})["w"]
      Array([ 0., -2.,  3.,  0.], dtype=float32)

    Reference: as `breadcrumbs`.
    Differs from the paper: as `breadcrumbs`.
    """

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Array:
        (w,) = leaves
        check_countable(w, ctx.spec)
        if w.size == 0:
            return w
        keep = count_of(of_model(density, ctx), w.size, floor=True)
        outliers = count_of(of_model(gamma, ctx), w.size, floor=True)
        return crumbs_array(w, keep, _fitting(outliers, w.size, keep), rescale)

    return leafwise("crumbs", apply)


def _fitting(outliers: Array | int, size: int, keep: Array | int) -> Array | int:
    """As many outliers as there is room for beside those that stay."""
    if isinstance(outliers, int) and isinstance(keep, int):
        return min(outliers, size - keep)
    return jnp.minimum(jnp.asarray(outliers, jnp.uint32), jnp.uint32(size) - jnp.asarray(keep, jnp.uint32))


def breadcrumbs(
    density: Array | float | Sequence[float],
    gamma: Array | float | Sequence[float] = 0.01,
    weights: Sequence[float] | Array | None = None,
    lam: Array | float = 1.0,
    consensus: Callable[..., Transform] = weighted_sum,
    rescale: bool = False,
) -> Transform:
    """Mask the outliers and the small entries of each task vector, then add what is left to the base.

        d_k = theta_k - base,   d_k <- crumbs(density, gamma)(d_k)
        theta = base + lam * sum_k w_k d_k

    `consensus=elect` merges by the sign election of TIES instead of the sum: "breadcrumbs_ties".

    Scope: leaf (1 pass). Needs: base. Random: no. Output leaf: array, dtype of the first tree.

    Args:
      density: fraction of each task vector that stays, 0..1; a tuple gives each model its own. Traced, in steps.
      gamma: fraction of the largest entries that go, 0..1, or a tuple: 1 - gamma is the paper's gamma. Traced, in
        steps.
      weights: [n], weight of each model; default all 1. Traced.
      lam: scale of the merged task vector. Traced.
      consensus: `(weights, lam) -> Transform` of n task vectors. Static.
      rescale: scale what stays to the L1 norm of the task vector's leaf. Static.
    Returns:
      Transform, n -> 1. Density 1 is the consensus alone: `task_arithmetic`.
    Raises:
      SideTreeError: no base. TreeMismatch: trees or base differ in structure.
      ShapeError: another number of weights than of models. WspaceError: a fraction outside 0..1.
    Example:
      >>> base, tuned = {"w": jnp.zeros(4)}, {"w": jnp.array([9.0, -2.0, 3.0, 1.0])}
      >>> breadcrumbs(density=0.5, gamma=0.25)(tuned, base=base)["w"]
      Array([ 0., -2.,  3.,  0.], dtype=float32)

    Reference: Davari, Belilovsky, 2024, "Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse Masks".
    Differs from the paper: counts are given as what stays and what is an outlier, and `rescale` is an addition (both as
      in mergekit). Where gamma n is below 1 no outlier goes; mergekit zeroed the whole leaf before 0.1.5.
    """
    return around_base(chain(crumbs(density, gamma, rescale), consensus(weights, lam)), name="breadcrumbs")
