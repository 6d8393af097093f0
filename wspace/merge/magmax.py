"""MagMax: of every entry, the task vector that moved it farthest."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from wspace.core.compose import around_base
from wspace.core.transform import Context, Transform, leafwise
from wspace.core.typing import Array


@jax.jit
def magmax_array(deltas: Sequence[Array], lam: Array | float) -> Array:
    """`lam d_k,i` with k = argmax_k |d_k,i|, entry by entry; of equal magnitudes the last one.

    deltas: n arrays of one shape and dtype.
    """
    farthest = deltas[0]
    for d in deltas[1:]:
        farthest = jnp.where(jnp.abs(farthest) > jnp.abs(d), farthest, d)
    return jnp.asarray(lam, farthest.dtype) * farthest


def magmax(lam: Array | float = 0.5) -> Transform:
    """Keep of n task vectors, entry by entry, the one of largest magnitude.

        d_k = theta_k - base,   theta_i = base_i + lam d_k,i,   k = argmax_k |d_k,i|

    Scope: leaf (1 pass). Needs: base. Random: no. Output leaf: array, dtype of the first tree.

    Args:
      lam: scale of the merged task vector. Traced.
    Returns:
      Transform, n -> 1.
    Raises:
      SideTreeError: no base. TreeMismatch: trees or base differ in structure.
    Example:
      >>> base, a, b = ({"w": jnp.array(w)} for w in ([0.0, 0.0], [4.0, 1.0], [-2.0, -3.0]))
      >>> magmax(lam=1.0)(a, b, base=base)["w"]
      Array([ 4., -3.], dtype=float32)

    Reference: Marczak, Twardowski, Trzcinski, Cygert, 2024, "MagMax: Leveraging Model Merging for Seamless Continual
      Learning".
    Differs from the paper: none. Of equal magnitudes the last model's stays, as in its code. There a model is trained
      on from the one before it; that is the caller's loop.
    """

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Array:
        return magmax_array(leaves, lam)

    return around_base(leafwise("magmax", apply, arity=None), name="magmax")
