"""Curves through several models: the Bezier curve and the polygon of their control points."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import jax
import jax.numpy as jnp

from wspace.core.transform import Context, Transform, leafwise
from wspace.core.typing import Array
from wspace.interpolate.lerp import check_position


@jax.jit
def bezier_array(points: Sequence[Array], t: Array | float) -> Array:
    """`sum_k C(n, k) t^k (1 - t)^(n - k) p_k` of n + 1 arrays of one shape and dtype; t: scalar."""
    n, t = len(points) - 1, jnp.asarray(t, points[0].dtype)
    parts = [comb(n, k) * t**k * (1 - t) ** (n - k) * p for k, p in enumerate(points)]
    return sum(parts[1:], parts[0])


@jax.jit
def polygon_array(points: Sequence[Array], t: Array | float) -> Array:
    """The point at t on the chain of straight lines through n + 1 arrays of one shape and dtype, 1/n of t for each."""
    n, t = len(points) - 1, jnp.asarray(t, points[0].dtype)
    side = jnp.clip(jnp.floor(n * t), 0, max(n - 1, 0))
    within = n * t - side
    shares = [jnp.where(side == k, 1 - within, 0) + jnp.where(side == k - 1, within, 0) for k in range(n + 1)]
    parts = [share * p for share, p in zip(shares, points, strict=True)]
    return sum(parts[1:], parts[0])


def bezier(t: Array | float) -> Transform:
    """The point at t on the Bezier curve from the first tree to the last, drawn towards those between.

        theta(t) = sum_k C(n, k) t^k (1 - t)^(n - k) theta_k,   k = 0 .. n;   n = 2: (1-t)^2 a + 2 t (1-t) c + t^2 b

    `curve` makes a path of it, `connect` finds the trees between.

    Scope: leaf (1 pass). Needs: nothing. Random: no. Output leaf: array, dtype of the first tree.

    Args:
      t: scalar, 0 is the first tree and 1 the last; outside 0..1 it extrapolates. Traced.
    Returns:
      Transform, n + 1 -> 1, up to about 16 trees. At t = 0 and t = 1 exactly the first and the last, if all are finite;
      of two trees `lerp(t)`.
    Raises:
      ShapeError: t is no scalar.
    Example:
      >>> a, c, b = ({"w": jnp.array([x])} for x in (0.0, 4.0, 2.0))
      >>> bezier(0.5)(a, c, b)["w"]
      Array([2.5], dtype=float32)

    Reference: Garipov, Izmailov, Podoprikhin, Vetrov, Wilson, 2018, "Loss Surfaces, Mode Connectivity, and Fast
      Ensembling of DNNs".
    Differs from the paper: none.
    """
    check_position(t)

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Array:
        return bezier_array(leaves, t)

    return leafwise("bezier", apply, arity=None)


def polygon(t: Array | float) -> Transform:
    """The point at t on the chain of straight lines through all trees, an equal part of t for each line.

        theta(t) = (1 - s) theta_k + s theta_{k+1},   k = floor(n t) in 0 .. n - 1,   s = n t - k

    `curve` makes a path of it, `connect` finds the trees between.

    Scope: leaf (1 pass). Needs: nothing. Random: no. Output leaf: array, dtype of the first tree.

    Args:
      t: scalar, 0 is the first tree and 1 the last; outside 0..1 the first and the last line go on. Traced; at a bend
        the gradient is that of the line after it.
    Returns:
      Transform, n + 1 -> 1, up to about 16 trees. At the bends exactly the trees, if all are finite and n t is exact.
    Raises:
      ShapeError: t is no scalar.
    Example:
      >>> a, c, b = ({"w": jnp.array([x])} for x in (0.0, 4.0, 2.0))
      >>> polygon(0.75)(a, c, b)["w"]
      Array([3.], dtype=float32)

    Reference: Garipov, Izmailov, Podoprikhin, Vetrov, Wilson, 2018, "Loss Surfaces, Mode Connectivity, and Fast
      Ensembling of DNNs".
    Differs from the paper: any number of bends; its polygonal chain has one.
    """
    check_position(t)

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Array:
        return polygon_array(leaves, t)

    return leafwise("polygon", apply, arity=None)
