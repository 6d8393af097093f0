"""TALL masks and consensus merging: which entries of a merged task vector serve a task, and which serve enough."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from wspace.core.compose import around_base
from wspace.core.errors import ShapeError
from wspace.core.transform import Context, Transform, leafwise
from wspace.core.typing import Array
from wspace.merge.task_arithmetic import weighted_sum


@jax.jit
def tall_mask_array(delta: Array, merged: Array, strictness: Array | float) -> Array:
    """Where the merged task vector is near enough to a task's own: `|d| > strictness |merged - d|`, bool."""
    return jnp.abs(delta) > jnp.asarray(strictness, delta.dtype) * jnp.abs(merged - delta)


@jax.jit
def consensus_array(deltas: Sequence[Array], merged: Array, strictness: Array | float, least: Array | int) -> Array:
    """merged where at least `least` of the n task vectors have a TALL mask, 0 elsewhere."""
    masks = [tall_mask_array(d, merged, strictness).astype(jnp.int32) for d in deltas]
    return jnp.where(sum(masks[1:], masks[0]) >= least, merged, 0)


def consensus(
    strictness: Array | float = 0.4,
    least: Array | int = 2,
    lam: Array | float = 1.0,
    multi: Transform | None = None,
) -> Transform:
    """Merge task vectors, then drop the entries that serve fewer than `least` tasks: the catastrophic and selfish ones.

        d_k = theta_k - base,   t = multi(d_1, ..., d_n),   m_k = [|d_k| > strictness |t - d_k|]
        theta = base + lam t [sum_k m_k >= least]

    With least=0 it is the merge alone, with 1 only entries that serve no task go, above n it is the base.

    Scope: leaf (1 pass). Needs: base. Random: no. Output leaf: array, dtype of the first tree.

    Args:
      strictness: lambda of the masks: larger ones leave fewer entries to a task. The paper finds it on held-out data
        among 0.2, 0.3, ... 0.6. Traced, in steps.
      least: tasks that an entry has to serve. Traced, in steps.
      lam: scale of the merged task vector. Traced.
      multi: merges n task vectors, leaf by leaf; default `weighted_sum()`. `elect(normalize=False)` after a trim is the
        paper's other choice. Static.
    Returns:
      Transform, n -> 1.
    Raises:
      SideTreeError: no base. TreeMismatch: trees or base differ in structure. ShapeError: multi takes more.
    Example:
      >>> base, a, b = ({"w": jnp.array(w)} for w in ([0.0, 0.0], [1.0, 1.0], [2.0, -9.0]))
      >>> consensus(strictness=0.4)(a, b, base=base)["w"]
      Array([3., 0.], dtype=float32)

    Reference: Wang, Dimitriadis, Ortiz-Jimenez, Fleuret, Frossard, 2024, "Localizing Task Information for Improved
      Model Merging and Compression".
    Differs from the paper: one strictness for all tasks, where its code picks one a task on held-out data.
    """
    merge = weighted_sum() if multi is None else multi
    if merge.folds or merge.arity == 1 or merge.needs:
        raise ShapeError(f"consensus merges with {merge.name}; it has to take n trees in one pass, without side trees")

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Array:
        merged = merge.apply(leaves, ctx)
        return jnp.asarray(lam, merged.dtype) * consensus_array(leaves, merged, strictness, least)

    return around_base(leafwise("consensus", apply, arity=None), name="consensus")
