"""Statistics after merging: give the units of a merged model the mean and spread that they had in its parents."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from wspace.core.errors import ShapeError
from wspace.core.typing import Array


class Moments(NamedTuple):
    """Mean and variance of each unit over data (and positions), both f32 [..., n]."""

    mean: Array
    variance: Array


class Affine(NamedTuple):
    """y = scale * x + shift, both f32 [n]."""

    scale: Array
    shift: Array


@jax.jit
def goal(a: Moments, b: Moments, t: Array | float = 0.5) -> Moments:
    """The statistics a merged unit should have: mean and standard deviation between those of its parents.

        mean = (1 - t) mean_a + t mean_b,   std = (1 - t) std_a + t std_b

    Args:
      a, b: of the same units, b's in a's order (of the matched model). t: as in the merge `(1 - t) a + t b`.
    Example:
      >>> goal(Moments(jnp.zeros(1), jnp.ones(1)), Moments(jnp.ones(1), jnp.full(1, 9.0)))
      Moments(mean=Array([0.5], dtype=float32), variance=Array([4.], dtype=float32))
    """
    t = jnp.asarray(t, a.mean.dtype)
    std = (1 - t) * jnp.sqrt(a.variance) + t * jnp.sqrt(b.variance)
    return Moments((1 - t) * a.mean + t * b.mean, jnp.square(std))


@jax.jit
def repair(now: Moments, wanted: Moments, epsilon: Array | float = 1e-5) -> Affine:
    """The map of pre-activations after which units have the wanted statistics (REPAIR).

        y = (x - mean_now) / sqrt(variance_now + epsilon) * std_wanted + mean_wanted

    Fold it into the layer with `fold`. Layers behind a repaired one see other inputs: measure them after it, from the
    first layer to the last, or repair all at once as the paper's normalization layers do.

    Args:
      now: of the merged model's units. wanted: from `goal`. epsilon: keeps units that never vary finite.
    Example:
      >>> repair(Moments(jnp.ones(1), jnp.ones(1)), Moments(jnp.zeros(1), jnp.full(1, 4.0)), 0.0)
      Affine(scale=Array([2.], dtype=float32), shift=Array([-2.], dtype=float32))

    Reference: Jordan, Sedghi, Saukh, Entezari, Neyshabur, 2023, "REPAIR: REnormalizing Permuted Activations for
    Interpolation Repair". Differs from the paper: statistics are arguments; the paper measures them in normalization
    layers that it adds and then folds away.
    """
    scale = jnp.sqrt(wanted.variance) / jnp.sqrt(now.variance + jnp.asarray(epsilon, now.variance.dtype))
    return Affine(scale, wanted.mean - scale * now.mean)


@jax.jit
def rescale(now: Moments, wanted: Moments, epsilon: Array | float = 1e-5) -> Affine:
    """`repair` without the mean (RESCALE): for units whose shift must stay, such as those with no bias."""
    scale = jnp.sqrt(wanted.variance) / jnp.sqrt(now.variance + jnp.asarray(epsilon, now.variance.dtype))
    return Affine(scale, jnp.zeros_like(scale))


@jax.jit
def fold(kernel: Array, bias: Array, after: Affine) -> tuple[Array, Array]:
    """A layer and the affine map behind it as one layer.

    Args:
      kernel: [..., out], dense or convolution; bias: [out].
    Returns:
      kernel and bias, same shapes and dtypes.
    Example:
      >>> fold(jnp.ones((1, 1)), jnp.ones(1), Affine(jnp.full(1, 2.0), jnp.ones(1)))
      (Array([[2.]], dtype=float32), Array([3.], dtype=float32))
    """
    wide = jax.lax.broadcast_in_dim(after.scale, kernel.shape, (kernel.ndim - 1,))
    folded = (
        kernel * wide.astype(kernel.dtype),
        bias * after.scale.astype(bias.dtype) + after.shift.astype(bias.dtype),
    )
    return folded


@jax.jit
def pooled(batches: Moments, counts: Array) -> Moments:
    """Statistics of all data from those of batches: what BatchNorm's running mean and variance should be.

        mean = sum_k w_k mean_k,   variance = sum_k w_k (variance_k + (mean_k - mean)^2),   w_k = counts_k / sum counts

    Recalibration of a merged model: run its BatchNorm layers on batches, take their inputs' statistics in each, and put
    what comes out of here in place of the averaged running statistics.

    Args:
      batches: f32 [batches, n]; variances over the batch, not the unbiased ones. counts: [batches], rows in each.
    Returns:
      f32 [n].
    Example:
      >>> pooled(Moments(jnp.array([[0.0], [2.0]]), jnp.ones((2, 1))), jnp.array([3, 3]))
      Moments(mean=Array([1.], dtype=float32), variance=Array([2.], dtype=float32))

    Reference: Jordan et al., 2023, section 4; the running average of BatchNorm gives late batches more weight instead.
    """
    w = (counts / counts.sum()).astype(batches.mean.dtype)[:, None]
    mean = (w * batches.mean).sum(0)
    return Moments(mean, (w * (batches.variance + jnp.square(batches.mean - mean[None, :]))).sum(0))


def batch_norm(stats: dict[str, Array], found: Moments) -> dict[str, Array]:
    """Running statistics of one flax BatchNorm, `{"mean": [n], "var": [n]}`, replaced by those found; dtypes are kept.

    Raises:
      ShapeError: other units.
    Example:
      >>> batch_norm({"mean": jnp.zeros(1), "var": jnp.ones(1)}, Moments(jnp.ones(1), jnp.full(1, 3.0)))["var"]
      Array([3.], dtype=float32)
    """
    new = {"mean": found.mean, "var": found.variance}
    if wrong := [k for k, x in new.items() if stats[k].shape != x.shape]:
        raise ShapeError(
            f"batch_norm: {wrong[0]} has shape {stats[wrong[0]].shape}, the statistics {new[wrong[0]].shape}"
        )
    return {**stats, **{k: x.astype(stats[k].dtype) for k, x in new.items()}}
