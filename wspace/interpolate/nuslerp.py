"""NuSLERP: spherical interpolation by weights of two models, on whole leaves or on every row of its own."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from wspace.core.transform import Context, Transform, leafwise, per_model
from wspace.core.typing import Array
from wspace.stats.norms import length

STRAIGHT = 1e-3  # sine of an angle below which the arc is taken for a line: they differ by less than float32 tells
CANCELS = 1e-6  # sum of weights below which there is no share: mergekit's number, and its t of one half


def nuslerp_array(a: Array, b: Array, t: Array | float, axis: int | None = None) -> Array:
    """The point at t on the arc from a to b, of the whole arrays or of every vector along an axis.

    a, b: floating arrays of one shape and dtype. t: scalar.
    """
    arc = _arc if axis is None else _arcs  # sums over whole arrays are programs of their own, so that leaves can be cut
    return arc(a, b, jnp.asarray(t, a.dtype), axis)


def _arc(a: Array, b: Array, t: Array, axis: int | None) -> Array:
    norms = length(a, axis), length(b, axis)
    apart, along = _between(a, b, norms)  # of length 2 sin(W / 2) and 2 cos(W / 2): exact where arccos is not
    return _on_arc(a, b, t, norms, length(apart, axis), length(along, axis))


_arcs = jax.jit(_arc, static_argnums=3)


@jax.jit
def _between(a: Array, b: Array, norms: tuple[Array, Array]) -> tuple[Array, Array]:
    """Difference and sum of the directions."""
    known = _known(norms)
    u, v = (x / jnp.where(known, norm, 1) for x, norm in zip((a, b), norms, strict=True))
    return u - v, u + v


@jax.jit
def _on_arc(a: Array, b: Array, t: Array, norms: tuple[Array, Array], apart: Array, along: Array) -> Array:
    arc = _known(norms) & (apart * along > 2 * STRAIGHT)
    apart, along = jnp.where(arc, apart, 1), jnp.where(arc, along, 1)
    angle, sin = 2 * jnp.arctan2(apart, along), apart * along / 2
    share_a, share_b = jnp.sin((1 - t) * angle) / sin, jnp.sin(t * angle) / sin
    return jnp.where(arc, share_a, 1 - t) * a + jnp.where(arc, share_b, t) * b


def _known(norms: tuple[Array, Array]) -> Array:
    return (norms[0] > 0) & (norms[1] > 0)


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
        a, b = leaves
        along = axis if axis is not None and -a.ndim <= axis < a.ndim else None
        return nuslerp_array(a, b, second_share(per_model(weights, 2)), along)

    return leafwise("nuslerp", apply, arity=2)
