"""Entropy of predictions: a loss that needs no labels."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from wspace.core.transform import working_dtype
from wspace.core.typing import Array


@jax.jit
def entropy(logits: Array) -> Array:
    """How undecided a classifier is, the mean Shannon entropy of its predictions: what test-time adaptation lowers.

        H = -mean_x sum_c p_c(x) log p_c(x),   p = softmax(logits)

    Args:
      logits: [..., classes], floating. Traced.
    Returns:
      scalar in nats, 0 .. log classes, in the dtype of the logits (at least float32).
    Example:
      >>> f"{entropy(jnp.zeros((3, 4))):.4f}"  # log 4
      '1.3863'

    Reference: Wang, Shelhamer, Liu, Olshausen, Darrell, 2021, "Tent: Fully Test-Time Adaptation by Entropy
      Minimization"; the loss of AdaMerging (`merge.adamerging`).
    Differs from the paper: none.
    """
    log_p = jax.nn.log_softmax(logits.astype(working_dtype(logits.dtype)))
    return -jnp.mean(jnp.sum(jnp.exp(log_p) * log_p, axis=-1))
