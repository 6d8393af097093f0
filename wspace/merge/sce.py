"""SCE: select the entries on which task vectors vary most, weigh models by their energy, erase minority signs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from wspace.core.compose import around_base
from wspace.core.transform import Context, Transform, leafwise
from wspace.core.typing import Array
from wspace.merge.ties import elected
from wspace.stats.quantile import check_countable, count, count_of, largest_mask, settled


@partial(jax.jit, static_argnames="positive")
def sce_array(
    deltas: Sequence[Array],
    density: Array | float,
    of_all: Array | int,
    floor: Array | float = 0.0,
    positive: bool = False,
) -> Array:
    """Select, calculate, erase; deltas: n arrays of one shape.

        S = the floor(density m) entries of largest variance over models, m = how many have any
        eta_k = mean(d_k^2 on S) / sum_j mean(d_j^2 on S),   A_i = {k: sgn(d_k,i) = sgn(sum_j d_j,i) != 0}
        out_i = sum_{k in A_i} eta_k d_k,i / sum_{k in A_i} eta_k   on S, 0 elsewhere

    of_all: floor(density size), which is exact where m = size. floor: energy below which models count as equal, and
      smallest divisor. positive: see `sce`.
    """
    n, size, dtype = len(deltas), deltas[0].size, deltas[0].dtype
    density, floor = jnp.asarray(density, jnp.float32), jnp.asarray(floor, dtype)
    mean = sum(deltas[1:], deltas[0]) / n
    squares = [(d - mean) ** 2 for d in deltas]
    variance = settled(sum(squares[1:], squares[0]) / n)
    varying = count(variance > 0)
    some = jnp.floor(density * varying.astype(jnp.float32)).astype(jnp.uint32)
    keep = jnp.where(varying == size, jnp.asarray(of_all, jnp.uint32), jnp.minimum(some, varying))
    selected = largest_mask(variance, keep) | (density >= 1)
    chosen = [jnp.where(selected, d, 0) for d in deltas]
    energies = [jnp.sum(d * d) / size for d in chosen]
    total = sum(energies[1:], energies[0])
    there = (total >= floor) & (total > 0)
    shares = [jnp.where(there, e / jnp.where(there, total, 1), 1 / n) for e in energies]
    sign = elected(sum(chosen[1:], chosen[0]), positive)
    agrees = [(jnp.sign(d) == sign) & (d != 0) for d in chosen]
    merged = sum(jnp.where(yes, e * d, 0) for yes, e, d in zip(agrees, shares, chosen, strict=True))
    divisor = jnp.maximum(sum(jnp.where(yes, e, 0) for yes, e in zip(agrees, shares, strict=True)), floor)
    return merged / jnp.where(divisor > 0, divisor, 1)


def sce(density: Array | float = 1.0, floor: Array | float = 0.0, positive: bool = False) -> Transform:
    """Select the most varying entries of n task vectors, weigh models by their energy, erase minority signs, average.

    See `sce_array` for the formula.

    Scope: leaf (1 pass). Needs: base. Random: no. Output leaf: array, dtype of the first tree.

    Args:
      density: fraction of entries that are selected, 0..1, mergekit's `select_topk`; 1 selects all. Traced, in steps.
      floor: mean squared task vector below which models get equal weights, and smallest divisor; mergekit's is 1e-6,
        which many fine-tunes are below. Traced, in steps.
      positive: where a sum over models is exactly zero, take the positive entries, as mergekit does, instead of none.
        Static.
    Returns:
      Transform, n -> 1. Entries on which all models agree do not vary, so below density 1 they stay at base.
    Raises:
      SideTreeError: no base. TreeMismatch: trees or base differ in structure. WspaceError: density outside 0..1.
    Example:
      >>> base, a, b = ({"w": jnp.array(w)} for w in ([0.0, 0.0], [1.0, 2.0], [3.0, -1.0]))
      >>> sce()(a, b, base=base)["w"]  # energies 5 and 10
      Array([2.3333333, 2.       ], dtype=float32)

    Reference: Wan et al., 2024, "FuseChat: Knowledge Fusion of Chat Models" (its merging method SCE).
    Differs from the paper: an entry whose sum over models is exactly zero stays at base. An array's density is
      multiplied in float32, and so is a number's where some entries do not vary.
    """

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Array:
        first = leaves[0]
        check_countable(first, ctx.spec)
        if first.size == 0:
            return first
        return sce_array(leaves, density, count_of(density, first.size, floor=True), floor, positive)

    return around_base(leafwise("sce", apply, arity=None), name="sce")
