"""Exact convex weights: the mean of predictions (or of models near each other) with the least squared error."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from wspace.core.errors import ShapeError
from wspace.core.transform import working_dtype
from wspace.core.typing import Array


@jax.jit
def project_simplex(v: Array) -> Array:
    """The nearest point of the simplex, weights at least 0 that sum to 1.

    Args:
      v: [n] floating, n up to a few thousand.
    Returns:
      [n], max(v - tau, 0) with the tau that makes the sum 1.
    Example:
      >>> project_simplex(jnp.array([0.5, 1.5, -1.0]))
      Array([0., 1., 0.], dtype=float32)

    Reference: Held, Wolfe, Crowder, 1974, "Validation of subgradient optimization".
    """
    down = jnp.sort(v)[::-1]
    tau = (jnp.cumsum(down) - 1) / jnp.arange(1, v.shape[0] + 1, dtype=v.dtype)
    last = jnp.sum(down > tau, dtype=jnp.int32) - 1
    return jnp.maximum(v - tau[last], 0)


def optimal_ensemble_weights(
    predictions: Array, targets: Array, sample_weight: Array | None = None, steps: int = 2000
) -> Array:
    """The weights of the convex combination of predictions with the least mean squared error.

        w = argmin_w (1/n) sum_i c_i (y_i - sum_m P_im w_m)^2   subject to   w >= 0, sum w = 1

    A convex quadratic program in the Gram matrix of what the models' errors differ by, solved by accelerated projected
    gradient with restarts. The same weights are soup coefficients where the soup predicts like the ensemble:
    `uniform_soup(w)`.

    Args:
      predictions: [n, models], out of fold. targets: [n], floats or integers. sample_weight: [n], c, at least 0;
        default 1.
      steps: of the solver. Static.
    Returns:
      [models] float32. Its error is at most that of the best single model and of the plain mean.
    Raises:
      ShapeError: the shapes do not belong together.
    Example:
      >>> p = jnp.array([[1.0, 3.0], [2.0, 6.0]])
      >>> optimal_ensemble_weights(p, jnp.array([2.0, 4.0])).round(4)
      Array([0.5, 0.5], dtype=float32)

    Reference: "Optimally Weighted Ensembles of Regression Models: Exact Weight Optimization and Applications".
    """
    if predictions.ndim != 2 or predictions.shape[:1] != targets.shape:
        raise ShapeError(
            f"optimal_ensemble_weights: predictions {predictions.shape}, targets {targets.shape}; "
            f"give [n, models] and [n]"
        )
    dtype = working_dtype(predictions.dtype)
    errors = jnp.asarray(predictions, dtype) - jnp.asarray(targets, dtype)[:, None]
    weight = jnp.ones((len(errors),), dtype) if sample_weight is None else jnp.asarray(sample_weight, dtype)
    if weight.shape != targets.shape:
        raise ShapeError(
            f"optimal_ensemble_weights: sample_weight {weight.shape} for targets {targets.shape}; one each"
        )
    common = jnp.mean(errors, axis=1, keepdims=True)  # no weights change this part, which is most of it for like models
    own = errors - common
    hessian, slope = (_product(own.T, weight[:, None] * x) for x in (own, common))
    return simplex_qp_array(hessian, slope[:, 0], steps)


@partial(jax.jit, static_argnames="steps")
def simplex_qp_array(hessian: Array, slope: Array, steps: int) -> Array:
    """`argmin w' hessian w + 2 slope' w` on the simplex; hessian: [n, n], positive semidefinite. steps: static."""
    n = slope.shape[0]
    top = jnp.max(jnp.sum(jnp.abs(hessian), axis=1))  # at least the largest eigenvalue
    rate = 1 / jnp.where(top > 0, top, 1)

    def step(_: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        w, ahead, t = carry
        new = project_simplex(ahead - rate * (_product(hessian, ahead) + slope))
        uphill = jnp.sum((ahead - new) * (new - w)) > 0  # momentum points the wrong way: begin again
        t = jnp.where(uphill, jnp.ones_like(t), t)
        later = (1 + jnp.sqrt(1 + 4 * t * t)) / 2
        return new, new + jnp.where(uphill, jnp.zeros_like(t), (t - 1) / later) * (new - w), later

    start = jnp.full((n,), 1 / n, hessian.dtype)
    return jax.lax.fori_loop(0, steps, step, (start, start, jnp.ones((), hessian.dtype)))[0]


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)
