"""The local volume of a basin: how many weights around a model do nearly as well."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln, logsumexp

from wspace.core.containers import as_params, is_weight, show
from wspace.core.errors import ShapeError
from wspace.core.transform import leaf_key, working
from wspace.core.typing import Array, Tree

BISECTIONS = 24  # of the radius: to 1 part in 2^24, what float32 tells


class Volume(NamedTuple):
    """log: natural log of the volume, scalar. radii: [directions], how far the loss stays low in each."""

    log: Array
    radii: Array


def local_volume(
    loss: Callable[[Tree], Array],
    params: Tree,
    epsilon: Array | float,
    key: Array,
    *,
    directions: int = 32,
    limit: Array | float = 1e3,
) -> Volume:
    """The volume of the weights around a model that can be seen from it through a loss of at most its own + epsilon.

        V = c_n mean_u r(u)^n,   r(u) = max {r: L(theta + s u) <= L(theta) + epsilon for all s <= r}

    u is uniform on the unit sphere, n the number of weights, c_n the volume of the unit ball. Flat basins are large: in
    a mixture over all models, -log V is, up to a constant, the price of this one. Compare models of one shape.

    Args:
      loss: parameters -> scalar, traceable. params: floating leaves are varied, others stay.
      epsilon: loss above the model's own, positive. Traced. key: of the directions.
      directions: how many are drawn, one after another. Static.
      limit: radius at which the search ends. Traced. Where the loss is still low there, the radius is this, and the
        volume too small.
    Returns:
      Volume. The estimate is unbiased for V and so, for log V, low with few directions: r^n is led by the flattest one
      that was drawn. With many weights compare only estimates of equally many directions.
    Raises:
      ShapeError: no direction, no floating leaf, or a loss that is no scalar.
    Example:
      >>> found = local_volume(lambda p: jnp.sum(p["w"] ** 2), {"w": jnp.zeros(2)}, 0.25, jax.random.key(0))
      >>> f"{jnp.exp(found.log):.4f}"  # the disk of radius 1/2
      '0.7854'

    Reference: "The Universality Lens: Why Even Highly Over-Parametrized Models Learn Well" (the weight of a
      hypothesis); by rays: Scherlis, Belrose, 2025, "Estimating the Probability of Sampling a Trained Neural Network
      at Random" (from memory).
    Differs from the paper: directions are uniform, where Scherlis and Belrose draw them by curvature. A ray ends at the
      first of the radii limit / 2^23, limit / 2^22, ... limit that is outside, or between it and the one before: a rise
      between two that are inside is not seen.
    """
    flat = as_params(params)
    weights = {path: working(x) for path, x in flat.leaves.items() if is_weight(x)}
    n = sum(x.size for x in weights.values())
    if directions < 1 or n == 0:
        raise ShapeError(f"local_volume: {directions} directions and {n} weights; both are at least 1")
    shape = jax.eval_shape(loss, params)
    if shape.shape != ():
        raise ShapeError(f"local_volume: the loss has shape {shape.shape}, but a loss is one number; take its mean")
    most = loss(params) + jnp.asarray(epsilon, shape.dtype)

    def radius(key: Array) -> Array:
        raw = {p: jax.random.normal(leaf_key(key, show(p)), x.shape, x.dtype) for p, x in weights.items()}
        length = jnp.sqrt(sum(jnp.sum(u * u).astype(jnp.float32) for u in raw.values()))

        def low(r: Array) -> Array:
            moved = {p: (x + (r / length).astype(x.dtype) * raw[p]) for p, x in weights.items()}
            kept = {p: moved[p].astype(x.dtype) if p in moved else x for p, x in flat.leaves.items()}
            return loss(flat.rebuild(kept)) <= most

        return _first_exit(low, jnp.asarray(limit, jnp.float32))

    radii = jax.lax.map(radius, jax.random.split(key, directions))
    ball = n / 2 * jnp.log(jnp.pi) - gammaln(jnp.asarray(n / 2 + 1, jnp.float32))
    return Volume(ball + logsumexp(n * jnp.log(radii)) - jnp.log(jnp.float32(directions)), radii)


def _first_exit(low: Callable[[Array], Array], limit: Array) -> Array:
    """The largest radius up to which a predicate holds, at most `limit`: doubling until it fails, then bisection."""

    def double(k: Array, found: tuple[Array, Array]) -> tuple[Array, Array]:
        inside, going = found
        r = jnp.minimum(limit * 2.0 ** (k + 1 - BISECTIONS).astype(jnp.float32), limit)
        going = going & low(r)
        return jnp.where(going, r, inside), going

    inside, whole = jax.lax.fori_loop(0, BISECTIONS, double, (jnp.zeros(()), jnp.array(True)))
    outside = jnp.where(inside > 0, jnp.minimum(2 * inside, limit), limit * 2.0 ** (1 - BISECTIONS))

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = (ends[0] + ends[1]) / 2
        yes = low(middle)
        return jnp.where(yes, middle, ends[0]), jnp.where(yes, ends[1], middle)

    return jnp.where(whole, inside, jax.lax.fori_loop(0, BISECTIONS, halve, (inside, outside))[0])
