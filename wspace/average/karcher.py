"""Karcher mean: the point of the sphere with the least sum of squared angles to n models, found by iteration."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from wspace.core.errors import WspaceError
from wspace.core.transform import Context, Transform, leafwise, per_model
from wspace.core.typing import Array
from wspace.stats.norms import length


@partial(jax.jit, static_argnames="max_iter")
def karcher_array(leaves: Sequence[Array], weights: Array, max_iter: int = 10, tol: Array | float = 1e-5) -> Array:
    """The Riemannian mean of the directions of n arrays of one shape, times the mean of their norms; weights: [n].

        u <- exp_u( sum_k w_k log_u(x_k / |x_k|) ),   log_u(v) = (W / sin W)(v - cos W u),   cos W = <u, v>

    Norms up to tol have no direction: their weight goes to the others. It stops where a step is shorter than tol.
    """
    dtype, given = leaves[0].dtype, jnp.sum(weights)
    weights, tol = (weights / jnp.where(given == 0, 1, given)).astype(dtype), jnp.asarray(tol, dtype)
    norms = [length(x) for x in leaves]
    valid = [n > tol for n in norms]
    shares = [jnp.where(ok, weights[k], 0) for k, ok in enumerate(valid)]
    total = sum(shares[1:], shares[0])
    shares = [w / jnp.where(total == 0, 1, total) for w in shares]
    units = [jnp.where(ok, x / jnp.where(ok, n, 1), 0) for x, n, ok in zip(leaves, norms, valid, strict=True)]
    start = _start(shares, units, valid, tol)

    def step(_: Array, u: Array) -> Array:
        steps = [w * _log(u, v, tol) for w, v in zip(shares, units, strict=True)]
        toward = sum(steps[1:], steps[0])
        size = length(toward)
        far = size >= tol
        size = jnp.where(far, size, 1)
        moved = jnp.cos(size) * u + jnp.sin(size) * (toward / size)
        norm = length(moved)
        return jnp.where(far, moved / jnp.where(norm > tol, norm, 1), u)

    u = lax.fori_loop(0, max_iter, step, start)
    return sum(weights[k] * n for k, n in enumerate(norms)) * u


def _start(shares: Sequence[Array], units: Sequence[Array], valid: Sequence[Array], tol: Array) -> Array:
    """The direction of the mean; where directions cancel out, the first one."""
    parts = [w * u for w, u in zip(shares, units, strict=True)]
    mean = sum(parts[1:], parts[0])
    first = units[-1]
    for u, ok in zip(units[-2::-1], valid[-2::-1], strict=True):
        first = jnp.where(ok, u, first)
    norm = length(mean)
    there = norm >= tol
    return jnp.where(there, mean / jnp.where(there, norm, 1), first)


def _log(u: Array, v: Array, tol: Array) -> Array:
    """The tangent at u that points to v, as long as their angle; zero where they are opposite.

    By half of the angle: a cosine in float32 takes all below 3e-4 for the same or for 3e-4, and fine-tunes of one base
    are no farther from each other.
    """
    apart, along = length(u - v), length(u + v)  # 2 sin(W / 2), 2 cos(W / 2)
    there = (apart > 0) & (along >= tol)
    apart, along = jnp.where(there, apart, 1), jnp.where(there, along, 1)
    stretch = 2 * jnp.arctan2(apart, along) / (apart * along / 2)  # W / sin W
    return jnp.where(there, stretch, 0) * (v - u + apart * apart / 2 * u)  # v - cos W u


def karcher(weights: Sequence[float] | Array | None = None, max_iter: int = 10, tol: Array | float = 1e-5) -> Transform:
    """The mean of n trees on the sphere: of directions the Karcher mean, of norms the plain mean, leaf by leaf.

        theta = (sum_k w_k |x_k|) argmin_u sum_k w_k angle(u, x_k)^2

    Scope: leaf (1 pass). Needs: nothing. Random: no. Output leaf: array, dtype of the first tree.

    Args:
      weights: [n], default equal; divided by their sum, unless that is zero. Traced.
      max_iter: most steps of the iteration. Static.
      tol: length of a step below which it stops, and norm below which a leaf has no direction. Traced, in steps.
    Returns:
      Transform, n -> 1; one tree is itself, and zero leaves are zero.
    Raises:
      ShapeError: another number of weights than of trees. WspaceError: max_iter below 1.
    Example:
      >>> a, b = {"w": jnp.array([2.0, 0.0])}, {"w": jnp.array([0.0, 4.0])}
      >>> karcher()(a, b)["w"]
      Array([2.121..., 2.121...], dtype=float32)

    Reference: Karcher, 1977, "Riemannian center of mass and mollifier smoothing"; mergekit, method `karcher`.
    Differs from the paper: a fixed number of steps of length one, on the sphere. Weights are an addition to mergekit's;
      opposite directions have no tangent here, where mergekit divides by the sine of pi. Angles are exact,
      however small; mergekit's arccosine in float32 can leave out models within 3e-4 of the mean, as fine-tunes are.
    """
    if max_iter < 1:
        raise WspaceError(f"karcher: max_iter is {max_iter}; it has to be at least 1, such as 10")

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Array:
        own = per_model(weights, len(leaves))
        return leaves[0] if len(leaves) == 1 else karcher_array(leaves, own, max_iter, tol)

    return leafwise("karcher", apply, arity=None)
