"""RAM+ (tensor-local): RAM that amplifies what only one task vector changes, the more that one overlaps with others."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from wspace.core.compose import around_base
from wspace.core.totals import adds_up
from wspace.core.transform import Context, Transform, leafwise
from wspace.core.typing import Array
from wspace.merge.ram import changes
from wspace.stats.quantile import check_countable, count


def ramplus_tl_array(
    deltas: Sequence[Array], r: Array | float = 0.1, alpha: Array | float = 0.2, epsilon: Array | float = 1e-5
) -> Array:
    """RAM of n arrays of one shape, where the entries that only model k changes are multiplied by

    1 + r min(rho_k, alpha),   rho_k = entries it shares with others / entries it changes alone
    """
    r, alpha, epsilon = (jnp.asarray(x, deltas[0].dtype) for x in (r, alpha, epsilon))
    alone, shared = _changed(deltas, epsilon)
    counts = wspace_counts(*alone, *shared)
    return _grown(deltas, alone, shared, counts[: len(deltas)], counts[len(deltas) :], r, alpha, epsilon)


@adds_up
def wspace_counts(*masks: Array) -> tuple[Array, ...]:
    """How many entries of each mask are true."""
    return tuple(count(mask) for mask in masks)


@jax.jit
def _changed(deltas: Sequence[Array], epsilon: Array) -> tuple[list[Array], list[Array]]:
    """Of each array, the entries that it alone changes, and those that others change too."""
    changed, models = changes(deltas, epsilon)
    return [c & (models == 1) for c in changed], [c & (models > 1) for c in changed]


@jax.jit
def _grown(
    deltas: Sequence[Array],
    alone: Sequence[Array],
    shared: Sequence[Array],
    single: Sequence[Array],
    several: Sequence[Array],
    r: Array,
    alpha: Array,
    epsilon: Array,
) -> Array:
    dtype, zero = deltas[0].dtype, jnp.zeros_like(deltas[0])
    models = sum((jnp.where(c, 1, zero) for c in shared), zero)  # that change an entry
    merged = zero
    for d, one, some, n_one, n_some in zip(deltas, alone, shared, single, several, strict=True):
        rho = n_some.astype(dtype) / jnp.maximum(n_one.astype(dtype), jnp.where(epsilon > 0, epsilon, 1))
        scale = 1 + r * jnp.clip(rho, 0, alpha)
        merged = merged + jnp.where(one, scale * d, jnp.where(some, d / jnp.maximum(models, 1), 0))
    return merged


def ramplus_tl(r: Array | float = 0.1, alpha: Array | float = 0.2, epsilon: Array | float = 1e-5) -> Transform:
    """RAM, where the entries that only one task vector changes grow with its overlap with the others.

        theta_i = base_i + sum_{k in A_i} d_k,i / |A_i|                      if |A_i| > 1
        theta_i = base_i + (1 + r min(rho_k, alpha)) d_k,i                   if A_i = {k}
        A_i = {k: |d_k,i| > epsilon},   rho_k = #{i in k's, |A_i| > 1} / #{i: A_i = {k}}, of each leaf

    Scope: leaf (1 pass). Needs: base. Random: no. Output leaf: array, dtype of the first tree.

    Args:
      r: how much overlap amplifies. Traced.
      alpha: the overlap above which it amplifies no more. Traced.
      epsilon: size up to which an entry of a task vector counts as unchanged. Traced, in steps.
    Returns:
      Transform, n -> 1. r = 0 is `ram`.
    Raises:
      SideTreeError: no base. TreeMismatch: trees or base differ in structure.
      ShapeError: a leaf of more than 2^32 - 1 elements.
    Example:
      >>> base, a, b = ({"w": jnp.array(w)} for w in ([0.0, 0.0, 0.0], [2.0, 4.0, 0.0], [0.0, 2.0, 0.0]))
      >>> ramplus_tl(r=0.5, alpha=1.0)(a, b, base=base)["w"]
      Array([3., 3., 0.], dtype=float32)

    Reference: Yuan et al., 2026, "Behavior Knowledge Merge in Reinforced Agentic Models" (RAM+).
    Differs from the paper: overlaps are counted in each leaf, not over the whole model; names and defaults are those of
      mergekit's `ramplus_tl`.
    """

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Array:
        check_countable(leaves[0], ctx.spec)
        return ramplus_tl_array(leaves, r, alpha, epsilon)

    return around_base(leafwise("ramplus_tl", apply, arity=None), name="ramplus_tl")
