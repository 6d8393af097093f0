"""NearSwap: take from another model what is near to the base, and of the rest a step of fixed length towards it."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from wspace.core.compose import around_base
from wspace.core.transform import Context, Transform, leafwise
from wspace.core.typing import Array

NEAREST = 1e-6  # a distance below which no one is told from zero: mergekit's number


@jax.jit
def nearswap_array(delta: Array, t: Array | float) -> Array:
    """`delta * min(1, t / max(|delta|, 1e-6))`: from 1e-6 on that is delta clipped to -t..t. t: scalar."""
    t = jnp.asarray(t, delta.dtype)
    return delta * jnp.clip(t / jnp.maximum(jnp.abs(delta), NEAREST), 0, 1)


def nearswap(t: Array | float) -> Transform:
    """Move each entry of the base to the other model's if that is within t, and else by t towards it.

        theta = base + d min(1, t / |d|),   d = other - base

    Scope: leaf (1 pass). Needs: base. Random: no. Output leaf: array, dtype of the tree.

    Args:
      t: how far an entry may move, at least 0, in weight units. Traced.
    Returns:
      Transform, 1 -> 1. t = 0 is the base.
    Raises:
      SideTreeError: no base. TreeMismatch: tree and base differ in structure.
    Example:
      >>> base, other = {"w": jnp.array([1.0, 1.0])}, {"w": jnp.array([1.25, -3.0])}
      >>> nearswap(0.5)(other, base=base)["w"]
      Array([1.25, 0.5 ], dtype=float32)

    Reference: alchemonaut, 2024, the model card of QuartetAnemoi-70B; mergekit, method `nearswap`.
    Differs from the paper: none; below a distance of 1e-6 entries move by d t / 1e-6, as in mergekit.
    """

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Array:
        return nearswap_array(leaves[0], t)

    return around_base(leafwise("nearswap", apply), name="nearswap")
