"""RAM: average what several task vectors change, and leave whole what only one of them changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from wspace.core.compose import around_base
from wspace.core.transform import Context, Transform, leafwise
from wspace.core.typing import Array


class Changes(NamedTuple):
    """Which entries each of n task vectors changes, and how many of them change an entry: bool and number arrays."""

    changed: list[Array]
    models: Array


def changes(deltas: Sequence[Array], epsilon: Array | float) -> Changes:
    """Changed is what is further than epsilon from zero."""
    changed = [jnp.abs(d) > jnp.asarray(epsilon, d.dtype) for d in deltas]
    numbers = [c.astype(d.dtype) for c, d in zip(changed, deltas, strict=True)]
    return Changes(changed, sum(numbers[1:], numbers[0]))


@jax.jit
def ram_array(deltas: Sequence[Array], epsilon: Array | float = 1e-5) -> Array:
    """Entry by entry the mean of those of n task vectors that change it (|d| > epsilon); 0 if none does."""
    changed, models = changes(deltas, epsilon)
    total = sum(jnp.where(c, d, 0) for c, d in zip(changed, deltas, strict=True))
    return total / jnp.maximum(models, 1)


def ram(epsilon: Array | float = 1e-5) -> Transform:
    """Add to the base, entry by entry, the mean over those task vectors that change it.

        theta_i = base_i + sum_{k in A_i} d_k,i / |A_i|,   A_i = {k: |d_k,i| > epsilon}

    Sparse task vectors, such as those of reinforcement learning, are not diluted by models that left an entry alone.

    Scope: leaf (1 pass). Needs: base. Random: no. Output leaf: array, dtype of the first tree.

    Args:
      epsilon: size up to which an entry of a task vector counts as unchanged. Traced, in steps.
    Returns:
      Transform, n -> 1.
    Raises:
      SideTreeError: no base. TreeMismatch: trees or base differ in structure.
    Example:
      >>> base, a, b = ({"w": jnp.array(w)} for w in ([0.0, 0.0, 0.0], [2.0, 4.0, 0.0], [0.0, 2.0, 0.0]))
      >>> ram()(a, b, base=base)["w"]
      Array([2., 3., 0.], dtype=float32)

    Reference: Yuan et al., 2026, "Behavior Knowledge Merge in Reinforced Agentic Models".
    Differs from the paper: none known; names and defaults are those of mergekit's `ram`.
    """

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Array:
        return ram_array(leaves, epsilon)

    return around_base(leafwise("ram", apply, arity=None), name="ram")
