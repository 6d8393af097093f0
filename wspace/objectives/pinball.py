"""The pinball loss, which a quantile minimizes."""

from __future__ import annotations

import jax.numpy as jnp

from wspace.core.errors import ShapeError
from wspace.core.typing import Array


def pinball(predictions: Array, targets: Array, levels: Array) -> Array:
    """The pinball loss of quantiles, summed over levels, mean over examples.

        L = mean_i sum_t max(t (y_i - q_it), (t - 1) (y_i - q_it))

    Args:
      predictions: q, [n, levels]. targets: y, [n]. levels: t, [levels], each in 0..1. Traced.
    Returns:
      scalar >= 0.
    Raises:
      ShapeError: the shapes do not belong together.
    Example:
      >>> pinball(jnp.array([[1.0]]), jnp.array([3.0]), jnp.array([0.9])).round(4)
      Array(1.8, dtype=float32)

    Reference: Koenker, Bassett, 1978, "Regression Quantiles".
    Differs from the paper: none.
    """
    if predictions.shape != (*targets.shape, *levels.shape):
        raise ShapeError(
            f"pinball: predictions {predictions.shape}, targets {targets.shape}, levels {levels.shape}; "
            f"give [n, levels], [n] and [levels]"
        )
    above = targets[:, None] - predictions
    return jnp.mean(jnp.sum(jnp.maximum(levels[None] * above, (levels[None] - 1) * above), axis=-1))
