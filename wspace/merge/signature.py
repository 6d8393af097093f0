"""Robust weight signatures: what robust training adds to a model, to patch onto others and take off again."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from wspace.core.errors import ShapeError
from wspace.core.implicit import dense
from wspace.core.totals import adds_up
from wspace.core.transform import Context, Transform, leafwise, per_model
from wspace.core.typing import Array


def robust_weight_signature_array(robust: Array, clean: Array) -> Array:
    """The part of an array that is orthogonal to another one of its shape and dtype: `r - <r, c> / <c, c> c`."""
    return _orthogonal(robust, clean, *wspace_overlap(robust, clean))


@adds_up
def wspace_overlap(robust: Array, clean: Array) -> tuple[Array, Array]:
    """`<r, c>` and `<c, c>`."""
    return jnp.sum(robust * clean), jnp.sum(clean * clean)


@jax.jit
def _orthogonal(robust: Array, clean: Array, product: Array, square: Array) -> Array:
    return robust - product / jnp.where(square == 0, 1, square) * clean


def robust_weight_signature() -> Transform:
    """What robust fine-tuning changes and clean fine-tuning does not, per leaf: a tree of deltas for `patch`.

        r = robust - base,   c = clean - base,   out = r - (<r, c> / <c, c>) c

    Batch-norm statistics and downsampling layers are not patched but replaced by the mean of the robust models:
    `on("batch_stats", average.uniform_soup())`. The paper takes the shallowest layers only:
    `on(shallow, patch())(model, signature)`.

    Scope: leaf (1 pass). Needs: base, the pretrained model. Random: no. Output leaf: array, dtype of the first tree.

    Returns:
      Transform, 2 -> 1, called as `(robust, clean, base=pretrained)`; the three share one pretraining.
    Raises:
      SideTreeError: no base. TreeMismatch: trees or base differ in structure.
    Example:
      >>> base, clean, robust = ({"w": jnp.array(w)} for w in ([0.0, 0.0], [2.0, 0.0], [3.0, 1.0]))
      >>> robust_weight_signature()(robust, clean, base=base)["w"]
      Array([0., 1.], dtype=float32)

    Reference: Cai, Zhang, Wang, 2023, "Robust Weight Signatures: Gaining Robustness as Easy as Patching Weights?".
    Differs from the paper: a leaf that clean training left at base keeps all of r. Its quantized storage is any
      transform of `quant` on the signature.
    """

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Array:
        robust, clean = leaves
        base = dense(ctx.side("base")).astype(robust.dtype)
        return robust_weight_signature_array(robust - base, clean - base)

    return leafwise("robust_weight_signature", apply, arity=2, needs=frozenset({"base"}))


@jax.jit
def patch_array(w: Array, signatures: Sequence[Array], weights: Array) -> Array:
    """`w + sum_k a_k s_k` of arrays of one shape and dtype; weights: a, [n]."""
    return sum((weights[k].astype(s.dtype) * s for k, s in enumerate(signatures)), w)


def patch(weights: Sequence[float] | Array | None = None) -> Transform:
    """Add trees of deltas to a model: signatures, or any task vectors. Negative weights take them off.

        theta + sum_k a_k s_k

    Scope: leaf (1 pass). Needs: nothing. Random: no. Output leaf: array, dtype of the first tree.

    Args:
      weights: [n], one a signature, default 1/n each. Traced.
    Returns:
      Transform, n + 1 -> 1, called as `(model, signature, ...)`. Taking off what was patched restores the model up to
      rounding.
    Raises:
      ShapeError: no signature, or another number of weights than of signatures.
    Example:
      >>> model, signature = {"w": jnp.array([1.0, 1.0])}, {"w": jnp.array([0.0, 2.0])}
      >>> patched = patch((0.5,))(model, signature)
      >>> patched["w"], patch((-0.5,))(patched, signature)["w"]
      (Array([1., 2.], dtype=float32), Array([1., 1.], dtype=float32))

    Reference: as `robust_weight_signature`.
    Differs from the paper: its code multiplies by the weight twice when there are several signatures; here once.
    """

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Array:
        model, *signatures = leaves
        if not signatures:
            raise ShapeError("patch got a model and no signature; call it as patch()(model, signature, ...)")
        n = len(signatures)
        return patch_array(model, signatures, per_model(weights, n, 1 / n))

    return leafwise("patch", apply, arity=None)
