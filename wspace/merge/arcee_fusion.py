"""Arcee Fusion: take over only those changes of a fine-tune that stand out in importance."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from wspace.core.implicit import dense
from wspace.core.transform import Context, Transform, leafwise
from wspace.core.typing import Array
from wspace.stats.quantile import check_countable, kth_magnitude

FLOOR = 1e-8  # added to probabilities: mergekit's number


def importance(w: Array, base: Array, axis: int = -1) -> Array:
    """`|w - base|` times the divergence KL(softmax(w) || softmax(base)) along an axis."""
    p, q = jax.nn.softmax(w, axis=axis) + FLOOR, jax.nn.softmax(base, axis=axis) + FLOOR
    more = (p - q) / q  # the sum of p - q is zero: without it each term is at least zero, and nothing cancels
    divergence = jnp.sum(q * ((1 + more) * jnp.log1p(more) - more), axis=axis, keepdims=True)
    return jnp.abs(w - base) * jnp.maximum(divergence, 0)


@partial(jax.jit, static_argnames="axis")
def arcee_fusion_array(w: Array, base: Array, spread: Array | float = 1.5, axis: int = -1) -> Array:
    """w where its importance is at least median + spread (q3 - q1) of all importances, base elsewhere.

    w, base: floating arrays of one shape, of one axis at least and of two entries.
    """
    scores, last = importance(w, base, axis), w.size - 1
    q1, median, q3 = (kth_magnitude(scores, w.size - i) for i in (last // 4, last // 2, 3 * last // 4))
    threshold = median + jnp.asarray(spread, scores.dtype) * (q3 - q1)
    return base + jnp.where(scores >= threshold, w - base, 0)


def arcee_fusion(spread: Array | float = 1.5, axis: int = -1) -> Transform:
    """The base, with those entries of a fine-tune whose change is outstandingly important.

        importance_i = |theta_i - base_i| KL(softmax(theta row) || softmax(base row))
        theta_i where importance_i >= median + spread (q3 - q1) of the leaf's importances, base_i elsewhere

    Scope: leaf (1 pass). Needs: base. Random: no. Output leaf: array, dtype of the tree.

    Args:
      spread: how many interquartile ranges above the median the threshold lies. Traced, in steps.
      axis: along which the softmax is taken, -1 for torch's rows `[out, in]`, -2 for `[in, out]`; a leaf without this
        axis has one row. Static.
    Returns:
      Transform, 1 -> 1. A leaf of one entry is that of the fine-tune.
    Raises:
      SideTreeError: no base. TreeMismatch: tree and base differ in structure.
      ShapeError: a leaf of more than 2^32 - 1 elements.
    Example:
      >>> base = {"w": jnp.zeros((1, 5))}
      >>> arcee_fusion()({"w": jnp.array([[0.1, -0.1, 0.2, 3.0, 0.1]])}, base=base)["w"]
      Array([[0., 0., 0., 3., 0.]], dtype=float32)

    Reference: Arcee AI, 2025, "Meet MergeKit v0.1: Arcee Fusion" (release note); mergekit, method `arcee_fusion`.
    Differs from the paper: the spread is a parameter, quartiles are exact where mergekit samples a million entries, and
      the divergence is summed without cancellation, so that rows that hardly differ are not ranked by rounding noise.
    """

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Array:
        (w,) = leaves
        check_countable(w, ctx.spec)
        if w.size < 2:
            return w
        along = axis if -w.ndim <= axis < w.ndim else -1
        return arcee_fusion_array(w, dense(ctx.side("base")).astype(w.dtype), spread, along)

    return leafwise("arcee_fusion", apply, needs=frozenset({"base"}))
