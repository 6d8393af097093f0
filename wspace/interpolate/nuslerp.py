"""NuSLERP: spherical interpolation by weights of two models, on whole leaves or on every row of its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from wspace.core.transform import Context, Transform, leafwise, per_model
from wspace.core.typing import Array
from wspace.stats.norms import length

STRAIGHT = 1e-3  # sine of an angle below which the arc is taken for a line: they differ by less than float32 tells
CANCELS = 1e-6  # sum of weights below which there is no share: mergekit's number, and its t of one half


@partial(jax.jit, static_argnames="axis")
def nuslerp_array(a: Array, b: Array, t: Array | float, axis: int | None = None) -> Array:
    """The point at t on the arc from a to b, of the whole arrays or of every vector along an axis.

    a, b: floating arrays of one shape and dtype. t: scalar.
    """
    t = jnp.asarray(t, a.dtype)
    norm_a, norm_b = length(a, axis), length(b, axis)
    known = (norm_a > 0) & (norm_b > 0)
    u, v = a / jnp.where(known, norm_a, 1), b / jnp.where(known, norm_b, 1)
    apart, along = length(u - v, axis), length(u + v, axis)  # 2 sin(W / 2), 2 cos(W / 2): exact where arccos is not
    arc = known & (apart * along > 2 * STRAIGHT)
    apart, along = jnp.where(arc, apart, 1), jnp.where(arc, along, 1)
    angle, sin = 2 * jnp.arctan2(apart, along), apart * along / 2
    share_a, share_b = jnp.sin((1 - t) * angle) / sin, jnp.sin(t * angle) / sin
    return jnp.where(arc, share_a, 1 - t) * a + jnp.where(arc, share_b, t) * b


@jax.jit
def second_share(weights: Array) -> Array:
    """`w_2 / (w_1 + w_2)` of two weights; one half if they sum to zero."""
    total = jnp.sum(weights)
    there = jnp.abs(total) >= CANCELS
    return jnp.where(there, weights[1] / jnp.where(there, total, 1), 0.5)


def nuslerp(weights: Sequence[float] | Array | None = None, axis: int | None = None) -> Transform:
    """Spherical interpolation of two trees by their weights, as mergekit's `nuslerp` does it.

        (sin((1 - t) W) a + sin(t W) b) / sin W,   cos W = <a, b> / (|a| |b|),   t = w_2 / (w_1 + w_2)

    That of task vectors, which mergekit does if it is given a base, is `around_base(nuslerp(...))(a, b, base=base)`.

    Scope: leaf (1 pass). Needs: nothing. Random: no. Output leaf: array, dtype of the first tree.

    Args:
      weights: [2], default equal; only their ratio matters. Traced.
      axis: None takes each leaf's one angle; a number takes that of every vector along this axis: -1 along torch's
        inputs (mergekit's `nuslerp_flatten: false`), 0 along its outputs (and `nuslerp_row_wise: true`). A leaf
        without this axis has one angle. Static.
    Returns:
      Transform, 2 -> 1. The line where there is no arc: parallel, opposite or zero vectors. Weights that sum to zero
      count as equal.
    Raises:
      ShapeError: another number of weights than two.
    Example:
      >>> a, b = {"w": jnp.array([[1.0, 0.0], [2.0, 0.0]])}, {"w": jnp.array([[0.0, 1.0], [4.0, 0.0]])}
      >>> nuslerp(axis=-1)(a, b)["w"]
      Array([[0.707..., 0.707...],
             [3.       , 0.       ]], dtype=float32)

    Reference: mergekit, method `nuslerp`; Shoemake, 1985, "Animating rotation with quaternion curves".
    Differs from the paper: interpolates vectors that are no unit vectors. mergekit divides by next to nothing for
      opposite vectors, and takes a right angle where one is zero; both are the line here.
    """
    per_model(weights, 2)

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Array:
        along = axis if axis is not None and -leaves[0].ndim <= axis < leaves[0].ndim else None
        return nuslerp_array(*leaves, second_share(per_model(weights, 2)), along)

    return leafwise("nuslerp", apply, arity=2)
