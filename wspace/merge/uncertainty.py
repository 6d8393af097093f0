"""Uncertainty-based gradient matching: task vectors weighed by how sure each model is of each entry."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from wspace.core.compose import around_base
from wspace.core.transform import Context, Transform, leafwise, per_model
from wspace.core.typing import Array


@jax.jit
def uncertainty_array(
    deltas: Sequence[Array], hessians: Sequence[Array], base_hessian: Array, weights: Array, delta0: Array | float
) -> Array:
    """`sum_t a_t (H_0 + H_t) d_t / (H_0 + sum_t a_t H_t)`, entry by entry, with H_0 = base_hessian + delta0.

    deltas, hessians: n arrays of one shape and dtype. weights: a, [n]. Where the divisor is 0: `sum_t a_t d_t`.
    """
    shares = [weights[t].astype(d.dtype) for t, d in enumerate(deltas)]
    prior = base_hessian + jnp.asarray(delta0, base_hessian.dtype)
    total = sum((a * h for a, h in zip(shares, hessians, strict=True)), prior)
    known = total != 0
    parts = [
        a * d * jnp.where(known, (prior + h) / jnp.where(known, total, 1), 1)
        for a, h, d in zip(shares, hessians, deltas, strict=True)
    ]
    return sum(parts[1:], parts[0])


@jax.jit
def uncertainty_full_array(
    deltas: Sequence[Array], hessians: Sequence[Array], base_hessian: Array, weights: Array, delta0: Array | float
) -> Array:
    """`(H_0 + sum_t a_t H_t)^-1 sum_t a_t (H_0 + H_t) d_t` with whole Hessians, H_0 = base_hessian + delta0 I.

    deltas: n of [m], as of `jax.flatten_util.ravel_pytree`. hessians: n of [m, m], base_hessian: [m, m]; symmetric.
    weights: a, [n]. For quadratic losses with these Hessians it is the optimum of all tasks at once. NaN if the divisor
    is not positive definite.

    >>> h, none = jnp.array([[2.0, 1.0], [1.0, 2.0]]), jnp.zeros((2, 2))
    >>> a, b = jnp.array([1.0, 0.0]), jnp.array([3.0, 2.0])
    >>> uncertainty_full_array((a, b), (h, h), none, jnp.ones(2), 0.0).round(5)  # equal ones: the mean
    Array([2., 1.], dtype=float32)
    """
    dtype = deltas[0].dtype
    shares = [weights[t].astype(dtype) for t in range(len(deltas))]
    prior = base_hessian + jnp.asarray(delta0, dtype) * jnp.eye(len(base_hessian), dtype=dtype)
    total = sum((a * h for a, h in zip(shares, hessians, strict=True)), prior)
    pulls = [
        a * jnp.matmul(prior + h, d, precision=lax.Precision.HIGHEST)
        for a, h, d in zip(shares, hessians, deltas, strict=True)
    ]
    factor = jnp.linalg.cholesky(total, symmetrize_input=False)
    return jax.scipy.linalg.cho_solve((factor, True), sum(pulls[1:], pulls[0]))


def uncertainty(weights: Sequence[float] | Array | None = None, delta0: Array | float = 1e-12) -> Transform:
    """Add task vectors so that their gradients match those of training on all tasks at once: UBGM.

        theta = base + sum_t a_t (H_0 + H_t) (theta_t - base) / (H_0 + sum_t a_t H_t),   H_0 = base_fisher + delta0

    Exact where the losses are quadratic with these diagonal Hessians and each model was trained with the prior H_0
    around base; `uncertainty_full_array` is the same with whole Hessians, for small models. H_t = 0 is task arithmetic;
    H_0 = 0 is the Fisher-weighted mean of the models (`fisher`, but for its floor), and with equal H_t their
    weighted mean. A negative weight takes a task away.

    Scope: leaf (1 pass). Needs: base, fisher (a tuple, one tree a model), base_fisher. Random: no. Output leaf: array,
    dtype of the first tree.

    Args:
      weights: [n], a_t of each task; default all 1. Traced.
      delta0: prior precision of the base model, in the units of the Fishers (1 / weight^2). Traced.
    Returns:
      Transform, n -> 1. The Fishers are diagonals, summed over a task's examples, at least 0, shaped like the leaves.
    Raises:
      SideTreeError: a side tree is missing. TreeMismatch: structures differ.
      ShapeError: another number of weights than of trees.
    Example:
      >>> base, a, b = ({"w": jnp.array([x])} for x in (0.0, 1.0, 3.0))
      >>> f, g, none = ({"w": jnp.array([x])} for x in (3.0, 1.0, 0.0))
      >>> uncertainty()(a, b, base=base, fisher=(f, g), base_fisher=none)["w"]
      Array([1.5], dtype=float32)

    Reference: Daheim, Moellenhoff, Ponti, Gurevych, Khan, 2024, "Model Merging by Uncertainty-Based Gradient Matching".
    Differs from the paper: this is its equation; its code has one more coefficient, and the weights in the Hessians
      only. Where nothing is known of an entry (all zero, delta0 too) it is task arithmetic.
    """

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Array:
        dtype = leaves[0].dtype
        hessians = [jnp.asarray(h).astype(dtype) for h in ctx.each("fisher")]
        prior = jnp.asarray(ctx.side("base_fisher")).astype(dtype)
        return uncertainty_array(leaves, hessians, prior, per_model(weights, len(leaves)), delta0)

    needs = frozenset({"fisher", "base_fisher"})
    return around_base(leafwise("uncertainty", apply, arity=None, needs=needs), name="uncertainty")
