"""Linear interpolation: a point on the straight line through two models."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from wspace.core.errors import ShapeError
from wspace.core.transform import Context, Transform, leafwise
from wspace.core.typing import Array


@jax.jit
def lerp_array(a: Array, b: Array, t: Array | float) -> Array:
    """`(1 - t) a + t b`: a at t = 0 and b at t = 1 to the last bit, which `a + t (b - a)` is not.

    a, b: floating arrays of one shape and dtype. t: scalar.
    """
    t = jnp.asarray(t, a.dtype)
    return (1 - t) * a + t * b


def lerp(t: Array | float) -> Transform:
    """The point at t on the straight line from the first tree to the second.

        theta(t) = (1 - t) a + t b

    Scope: leaf (1 pass). Needs: nothing. Random: no. Output leaf: array, dtype of the first tree.

    Args:
      t: scalar, 0 is the first tree and 1 the second; outside 0..1 it extrapolates. Traced: vmap and grad over it work.
    Returns:
      Transform, 2 -> 1. At t = 0 and t = 1 exactly the trees (but -0 may come out as 0, and NaN or infinity in either
      tree is NaN).
    Raises:
      ShapeError: t is no scalar.
    Example:
      >>> lerp(0.25)({"w": jnp.array([0.0, 4.0])}, {"w": jnp.array([8.0, 4.0])})["w"]
      Array([2., 4.], dtype=float32)

    Reference: Goodfellow, Vinyals, Saxe, 2015, "Qualitatively characterizing neural network optimization problems";
      Wortsman et al., 2022, "Robust fine-tuning of zero-shot models" (WiSE-FT, from a pretrained model to a fine-tune).
    Differs from the paper: none.
    """
    check_position(t)

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Array:
        return lerp_array(*leaves, t)

    return leafwise("lerp", apply, arity=2)


def check_position(t: Array | float) -> None:
    """Raises ShapeError if a position on a path is no scalar."""
    if jnp.shape(t) != ():
        raise ShapeError(f"t has shape {jnp.shape(t)}, but a position is one number; map over many with jax.vmap")
