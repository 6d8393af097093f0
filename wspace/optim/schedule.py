"""Schedules: a value for every step of training, as plain callables from step to value."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from wspace.core.typing import Array


def polynomial_sparsity(
    final: Array | float, begin: int, end: int, initial: Array | float = 0.0, power: Array | float = 3.0
) -> Callable[[Array | int], Array]:
    """Sparsity that rises fast at first, while many weights are redundant, and ever slower towards the end.

        s(t) = final + (initial - final) (1 - (t - begin) / (end - begin))^power,   t clipped to begin .. end

    Args:
      final, initial: fractions of zeros, 0..1. Traced. begin, end: steps, begin < end. power: 3 in the paper. Traced.
    Returns:
      a function from step (may be traced) to a float32 scalar.
    Example:
      >>> s = polynomial_sparsity(final=0.8, begin=0, end=100)
      >>> [round(float(s(t)), 3) for t in (0, 50, 100, 200)]
      [0.0, 0.7, 0.8, 0.8]

    Reference: Zhu, Gupta, 2017, "To prune, or not to prune: exploring the efficacy of pruning for model compression".
    Differs from the paper: none; its end is begin + n * (steps between two updates of the mask).
    """

    def sparsity(step: Array | int) -> Array:
        done = (jnp.asarray(step, jnp.float32) - begin) / (end - begin)
        left = (1 - jnp.clip(done, 0, 1)) ** jnp.asarray(power, jnp.float32)
        return left * jnp.asarray(initial, jnp.float32) + (1 - left) * jnp.asarray(final, jnp.float32)

    return sparsity
