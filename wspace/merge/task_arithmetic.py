"""Task arithmetic: add task vectors to their base, or subtract them."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from wspace.core.compose import around_base
from wspace.core.transform import Context, Transform, leafwise, per_model
from wspace.core.typing import Array


@jax.jit
def weighted_sum_array(deltas: Sequence[Array], weights: Array, lam: Array | float) -> Array:
    """`lam * sum_k w_k d_k` of n arrays of one shape and dtype; weights: [n]; lam: scalar."""
    parts = [weights[k].astype(d.dtype) * d for k, d in enumerate(deltas)]
    return jnp.asarray(lam, deltas[0].dtype) * sum(parts[1:], parts[0])


def weighted_sum(weights: Sequence[float] | Array | None = None, lam: Array | float = 1.0) -> Transform:
    """The sum of n trees: what task arithmetic does with task vectors, as a step to put in a chain.

        out = lam * sum_k w_k x_k

    Scope: leaf (1 pass). Needs: nothing. Random: no. Output leaf: array, dtype of the first tree.

    Args:
      weights: [n], default all 1. Traced.
      lam: scale of the sum. Traced.
    Returns:
      Transform, n -> 1.
    Raises:
      ShapeError: another number of weights than of trees.
    Example:
      >>> weighted_sum((1.0, -1.0))({"w": jnp.array([3.0])}, {"w": jnp.array([1.0])})["w"]
      Array([2.], dtype=float32)

    Reference: as `task_arithmetic`.
    Differs from the paper: none.
    """

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Array:
        return weighted_sum_array(leaves, per_model(weights, len(leaves)), lam)

    return leafwise("weighted_sum", apply, arity=None)


def task_arithmetic(weights: Sequence[float] | Array | None = None, lam: Array | float = 1.0) -> Transform:
    """Add the task vectors of n models to their base.

        theta = base + lam * sum_k w_k (theta_k - base)

    A negative weight takes a task away. With lam = 1/n it is the mean of the models, whatever the base.

    Scope: leaf (1 pass). Needs: base. Random: no. Output leaf: array, dtype of the first tree.

    Args:
      weights: [n], default all 1. Traced.
      lam: scale of the sum, the paper's one coefficient. Traced.
    Returns:
      Transform, n -> 1.
    Raises:
      SideTreeError: no base. TreeMismatch: trees or base differ in structure.
      ShapeError: another number of weights than of trees.
    Example:
      >>> base, a, b = ({"w": jnp.array(w)} for w in ([1.0, 1.0], [3.0, 1.0], [1.0, 5.0]))
      >>> task_arithmetic(lam=0.5)(a, b, base=base)["w"]
      Array([2., 3.], dtype=float32)

    Reference: Ilharco et al., 2023, "Editing Models with Task Arithmetic".
    Differs from the paper: a weight for each task is an addition; the paper has lam only, and negates by hand.
    """
    return around_base(weighted_sum(weights, lam), name="task_arithmetic")
