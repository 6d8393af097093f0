"""Delta-guided fusion: a mean of models in which those that moved farther count more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp

from wspace.core.compose import around_base
from wspace.core.errors import ShapeError
from wspace.core.transform import Context, Transform, leafwise
from wspace.core.typing import Array
from wspace.stats.norms import length


def delta_weighted_array(deltas: Sequence[Array], power: Array | float, scope: Literal["leaf", "entry"]) -> Array:
    """`sum_k w_k d_k` with `w_k = |d_k|^power / sum_j |d_j|^power`; |.| of each entry, or the norm of the leaf.

    deltas: n arrays of one shape and dtype. Where all are zero so is the result.
    """
    sizes = [jnp.abs(d) if scope == "entry" else length(d) for d in deltas]
    return _weighted(deltas, sizes, jnp.asarray(power, deltas[0].dtype))


@jax.jit
def _weighted(deltas: Sequence[Array], sizes: Sequence[Array], power: Array) -> Array:
    largest = sizes[0]
    for size in sizes[1:]:
        largest = jnp.maximum(largest, size)
    shares = [jnp.power(size / jnp.where(largest == 0, 1, largest), power) for size in sizes]
    total = sum(shares[1:], shares[0])
    parts = [share / jnp.where(total == 0, 1, total) * d for share, d in zip(shares, deltas, strict=True)]
    return sum(parts[1:], parts[0])


def delta_weighted(power: Array | float = 1.0, scope: Literal["leaf", "entry"] = "leaf") -> Transform:
    """Merge task vectors, each weighed by its own size: per leaf by its norm, or entry by entry.

        d_k = theta_k - base,   w_k = |d_k|^power / sum_j |d_j|^power,   theta = base + sum_k w_k d_k

    Scope: leaf (1 pass). Needs: base. Random: no. Output leaf: array, dtype of the first tree.

    Args:
      power: 0 is the mean of the models, larger ones prefer the model that moved farthest; at least 0. Traced.
      scope: "leaf" for one weight a leaf, "entry" for one an entry. Static.
    Returns:
      Transform, n -> 1. Weights sum to 1; the order of the models does not matter.
    Raises:
      SideTreeError: no base. TreeMismatch: structures differ. ShapeError: another word for scope.
    Example:
      >>> base, a, b = ({"w": jnp.array([x])} for x in (0.0, 1.0, 3.0))
      >>> delta_weighted()(a, b, base=base)["w"]
      Array([2.5], dtype=float32)

    Reference: "CoDiEmb: A Collaborative yet Distinct Framework for Unified Representation Learning
      in Information Retrieval and Semantic Textual Similarity".
    Differs from the paper: its abstract says that weights come from each parameter's deviation from the pretrained
      value, and no more was found, neither formula nor code. This is the simplest rule that does that.
    """
    if scope not in ("leaf", "entry"):
        raise ShapeError(f"delta_weighted has no scope {scope!r}; use 'leaf' or 'entry'")

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Array:
        return delta_weighted_array(leaves, power, scope)

    return around_base(leafwise("delta_weighted", apply, arity=None), name="delta_weighted")
