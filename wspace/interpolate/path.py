"""Paths through weight space: plain callables from a position t to parameters, to evaluate, plot or optimize along."""

from __future__ import annotations

from collections.abc import Callable

from wspace.core.transform import Transform
from wspace.core.typing import Array, Tree
from wspace.interpolate.lerp import lerp


def segment(
    a: Tree, b: Tree, by: Callable[[Array | float], Transform] = lerp, **sides: Tree
) -> Callable[[Array | float], Tree]:
    """The path from a to b: `t -> by(t)(a, b, **sides)`, a straight line unless told otherwise.

    Args:
      a, b: trees of one structure: the ends, at t = 0 and t = 1.
      by: position -> Transform of two trees: `lerp`, `slerp`, `lambda t: around_base(slerp(t))`, or any merge.
      sides: side trees that the transform needs, such as `base`.
    Returns:
      callable: t, a scalar, traced or not -> parameters. `measure.along` evaluates a metric on it.
    Raises (when called):
      TreeMismatch: a and b differ in structure.
    Example:
      >>> import jax, jax.numpy as jnp
      >>> path = segment({"w": jnp.zeros(2)}, {"w": jnp.ones(2)})
      >>> path(0.5)["w"]
      Array([0.5, 0.5], dtype=float32)
      >>> jax.vmap(lambda t: path(t)["w"].sum())(jnp.linspace(0, 1, 3))
      Array([0., 1., 2.], dtype=float32)
    """
    return lambda t: by(t)(a, b, **sides)
