"""Spherical interpolation: a point on the arc between two models, at constant angular speed.

Which slerp: the weights come from the angle between the two vectors, and they are applied to the vectors as they are.
Norms are not normalized: those of WARP and of mergekit are the same formula (mergekit normalizes to get the angle).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from wspace.core.errors import ShapeError
from wspace.core.fold import Fold
from wspace.core.totals import adds_up
from wspace.core.transform import Context, Transform, leafwise, working
from wspace.core.typing import Array, Leaf
from wspace.interpolate.lerp import check_position

PARALLEL = 0.9995  # |cos| from which the arc is taken for a line: mergekit's and fusion_bench's number


class Products(NamedTuple):
    """What the angle between two vectors is made of: <a, a>, <b, b>, <a, b>. Scalars."""

    aa: Array
    bb: Array
    ab: Array


@adds_up
def wspace_products(a: Array, b: Array) -> Products:
    """The inner products of two arrays of one shape, as plain reductions: any sharding stays."""
    return Products(jnp.sum(a * a), jnp.sum(b * b), jnp.sum(a * b))


@jax.jit
def shares(p: Products, t: Array) -> tuple[Array, Array]:
    """How much of a and of b. Where there is no arc, 1 - t and t; both branches are finite, and so are gradients."""
    arc = jnp.abs(p.ab) < PARALLEL * (jnp.sqrt(p.aa) * jnp.sqrt(p.bb))  # False too for zero, infinite or NaN norms
    aa, bb, ab = jnp.where(arc, p.aa, 1), jnp.where(arc, p.bb, 1), jnp.where(arc, p.ab, 0)
    angle = jnp.arccos(ab / (jnp.sqrt(aa) * jnp.sqrt(bb)))
    sin = jnp.sin(angle)
    return (
        jnp.where(arc, jnp.sin((1 - t) * angle) / sin, 1 - t),
        jnp.where(arc, jnp.sin(t * angle) / sin, t),
    )


def slerp_array(a: Array, b: Array, t: Array | float, given: Products | None = None) -> Array:
    """The point at t on the arc from a to b; the angle is that of the whole arrays, or of the given inner products.

    a, b: floating arrays of one shape and dtype. t: scalar.

        (sin((1 - t) W) a + sin(t W) b) / sin W,   cos W = <a, b> / (|a| |b|);   (1 - t) a + t b if |cos W| >= 0.9995
    """
    p = wspace_products(a, b) if given is None else Products(*(x.astype(a.dtype) for x in given))
    share_a, share_b = shares(p, jnp.asarray(t, a.dtype))
    return _sum(a, b, share_a, share_b)


@jax.jit
def _sum(a: Array, b: Array, share_a: Array, share_b: Array) -> Array:
    return share_a * a + share_b * b


def slerp(t: Array | float, scope: Literal["leaf", "tree"] = "leaf") -> Transform:
    """The point at t on the arc from the first tree to the second, at constant angular speed.

        theta(t) = (sin((1 - t) W) a + sin(t W) b) / sin W,   cos W = <a, b> / (|a| |b|)

    Where there is no arc it is the straight line `lerp(t)`: parallel or opposite leaves (|cos W| >= 0.9995), and
    all-zero leaves. Gradients are finite there too.

    The slerp of task vectors, which is the one of WARP, is `around_base(slerp(t))(a, b, base=base)`.

    Scope: leaf (1 pass); with scope="tree" global (2 passes). Needs: nothing. Random: no.
    Output leaf: array, dtype of the first tree.

    Args:
      t: scalar, 0 is the first tree and 1 the second. Traced: vmap and grad over it work.
      scope: "leaf" takes each leaf's own angle (a leaf of stacked layers has one), "tree" the one angle between the
        whole trees. Static.
    Returns:
      Transform, 2 -> 1. At t = 0 and t = 1 exactly the trees.
    Raises:
      ShapeError: t is no scalar, or scope is another word.
    Example:
      >>> a, b = {"w": jnp.array([1.0, 0.0])}, {"w": jnp.array([0.0, 1.0])}
      >>> slerp(0.5)(a, b)["w"]
      Array([0.707..., 0.707...], dtype=float32)

    Reference: Shoemake, 1985, "Animating rotation with quaternion curves"; Rame et al., 2024, "WARP: On the Benefits of
      Weight Averaged Rewarded Policies".
    Differs from the paper: WARP leaves the threshold of parallel vectors open; here it is mergekit's. mergekit
    interpolates on the arc when one leaf is all zero (its angle counts as a right one); here that is the line.
    """
    check_position(t)
    if scope not in ("leaf", "tree"):
        raise ShapeError(f"slerp has no scope {scope!r}; use 'leaf' (an angle a leaf) or 'tree' (one angle)")

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Array:
        a, b = leaves
        return slerp_array(a, b, t, *ctx.summaries)

    return leafwise("slerp", apply, arity=2, folds=(_tree_products(),) if scope == "tree" else ())


def _tree_products() -> Fold:
    """The inner products of two whole trees, in the widest float that is enabled."""

    def lift(leaves: tuple[Leaf, ...], ctx: Context) -> Products:
        wide = jax.dtypes.canonicalize_dtype(jnp.float64)
        return wspace_products(*(working(x).astype(wide) for x in leaves))

    return Fold(lift, lambda p, q: Products(*(x + y for x, y in zip(p, q, strict=True))))
