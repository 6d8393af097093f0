"""Fisher-weighted averaging: every entry is a mean of the models', weighed by how sure each model is of it."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from wspace.core.fold import Fold
from wspace.core.transform import Context, Transform, leafwise, per_model, working
from wspace.core.typing import Array


@jax.jit
def fisher_array(leaves: Sequence[Array], fishers: Sequence[Array], weights: Array, floor: Array | float) -> Array:
    """`sum_k w_k F_k x_k / sum_k w_k F_k`, entry by entry, with F_k at least floor.

    leaves, fishers: n arrays of one shape and dtype. weights: w, [n]. Where the divisor is 0: the plain mean.
    """
    dtype = leaves[0].dtype
    bottom = jnp.asarray(floor, dtype)
    shares = [weights[k].astype(dtype) * jnp.maximum(f, bottom) for k, f in enumerate(fishers)]
    total = sum(shares[1:], shares[0])
    known = total != 0
    divisor = jnp.where(known, total, 1)
    parts = [jnp.where(known, w / divisor, 1 / len(leaves)) * x for w, x in zip(shares, leaves, strict=True)]
    return sum(parts[1:], parts[0])


def fisher(
    weights: Sequence[float] | Array | None = None, floor: Array | float = 1e-6, normalize: bool = False
) -> Transform:
    """The mode of the product of the models' posteriors, each a Gaussian with its diagonal Fisher for precision.

        theta = sum_k w_k F_k theta_k / sum_k w_k F_k,   F_k <- max(F_k, floor)

    Scope: leaf (1 pass); with normalize, global (2 passes). Needs: fisher (a tuple, one tree a model). Random: no.
    Output leaf: array, dtype of the first tree.

    Args:
      weights: [n], of each model; default all 1. Traced.
      floor: least Fisher, in its units (1 / weight^2): entries no model is sure of are averaged plainly. Traced.
      normalize: divide each model's Fisher by its norm over all leaves, so that no model outweighs the others by the
        scale of its loss. Static.
    Returns:
      Transform, n -> 1. Fishers are diagonals shaped like the leaves, such as `calibrate(..., {"fisher":
      fisher(loss)})` gives; equal ones make it the weighted mean.
    Raises:
      SideTreeError: no fisher, not one a model, or nothing for a leaf. ShapeError: another number of weights.
    Example:
      >>> a, b = {"w": jnp.array([1.0])}, {"w": jnp.array([3.0])}
      >>> fisher()(a, b, fisher=({"w": jnp.array([3.0])}, {"w": jnp.array([1.0])}))["w"]
      Array([1.5], dtype=float32)

    Reference: Matena, Raffel, 2022, "Merging Models with Fisher-Weighted Averaging".
    Differs from the paper: the floor holds for all models, where its code has it for the first one only, whose entries
      then stay where no other model is sure. Its code normalizes by default.
    """

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Array:
        shares = per_model(weights, len(leaves))
        if normalize:
            norms = ctx.summaries[0].astype(shares.dtype)
            shares = shares.astype(norms.dtype) / jnp.where(norms > 0, norms, 1)
        fishers = [jnp.asarray(f).astype(leaves[0].dtype) for f in ctx.each("fisher")]
        return fisher_array(leaves, fishers, shares, floor)

    def squares(leaves: tuple[Array, ...], ctx: Context) -> Array:
        return jnp.stack([jnp.sum(jnp.square(working(f))).astype(jnp.result_type(float)) for f in ctx.each("fisher")])

    folds = (Fold(squares, jnp.add, jnp.sqrt),) if normalize else ()
    return leafwise("fisher", apply, arity=None, folds=folds, needs=frozenset({"fisher"}))
