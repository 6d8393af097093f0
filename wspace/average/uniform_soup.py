"""Uniform soup: the mean of several models."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from wspace.core.errors import WspaceError
from wspace.core.transform import Context, Transform, leafwise, per_model
from wspace.core.typing import Array


@jax.jit
def average_array(leaves: Sequence[Array], weights: Array) -> Array:
    """The weighted mean `sum_k w_k x_k / sum_k w_k` of n arrays of one shape and dtype; weights: [n]."""
    shares = (weights / jnp.sum(weights)).astype(leaves[0].dtype)
    parts = [shares[k] * x for k, x in enumerate(leaves)]
    return sum(parts[1:], parts[0])


def uniform_soup(weights: Sequence[float] | Array | None = None) -> Transform:
    """The mean of n trees; with weights, the mean weighted by their shares of the sum.

        theta = sum_k w_k theta_k / sum_k w_k

    Scope: leaf (1 pass). Needs: nothing. Random: no. Output leaf: array, dtype of the first tree.

    Args:
      weights: [n], default all 1. Only their ratios matter; negative ones are allowed. Traced.
    Returns:
      Transform, n -> 1. One tree is itself, and so is a tree with all the weight.
    Raises:
      ShapeError: another number of weights than of trees.
      WspaceError: the weights sum to zero. Traced weights can't be checked: they give infinity or NaN then.
    Example:
      >>> a, b = {"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([3.0, 6.0])}
      >>> uniform_soup()(a, b)["w"]
      Array([2., 4.], dtype=float32)

    Reference: Wortsman et al., 2022, "Model soups: averaging weights of multiple fine-tuned models improves accuracy
      without increasing inference time"; Rame et al., 2022, "Diverse Weight Averaging for Out-of-Distribution
      Generalization" (its uniform selection).
    Differs from the paper: weights are an addition (those of mergekit's `linear`).
    """
    _check_sum(weights)

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Array:
        return average_array(leaves, per_model(weights, len(leaves)))

    return leafwise("uniform_soup", apply, arity=None)


def _check_sum(weights: Sequence[float] | Array | None) -> None:
    """Raises WspaceError if weights are known and sum to zero, as far as float32 can tell."""
    if weights is None or any(isinstance(w, jax.core.Tracer) for w in jax.tree.leaves(weights)):
        return
    known = np.asarray(weights, np.float64)
    if abs(known.sum()) <= 1e-6 * np.abs(known).sum():
        raise WspaceError(f"uniform_soup: the weights {known.tolist()} sum to zero, so there is no mean; change one")
