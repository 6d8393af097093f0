"""Groups of consecutive inputs of a matrix: what shares a scale, what competes in an n:m pattern."""

from __future__ import annotations

import jax.numpy as jnp

from wspace.core.errors import ShapeError
from wspace.core.typing import Array
from wspace.stats.sharding import shards


def grouped(x: Array, group: int) -> Array:
    """`[..., in, out]` to `[..., in/group, group, out]`."""
    *stack, inputs, outputs = x.shape
    return jnp.reshape(x, (*stack, inputs // group, group, outputs))


def ungrouped(x: Array) -> Array:
    """The inverse of `grouped`."""
    *stack, groups, group, outputs = x.shape
    return jnp.reshape(x, (*stack, groups * group, outputs))


def check_group(w: Array, group: int, name: str, path: str) -> None:
    """Whether the inputs of `[..., in, out]` fall into groups.

    Raises:
      ShapeError: group does not divide the inputs, or (on a mesh with Explicit axes) a group spans devices.
    """
    inputs = w.shape[-2]
    if group < 1 or inputs % group:
        raise ShapeError(f"{path} has {inputs} inputs, which {name}={group} does not divide; use a divisor of {inputs}")
    here = inputs // shards(w, -2)
    if here % group and group != inputs:
        raise ShapeError(
            f"{path} has {here} of its {inputs} inputs on each device, which {name}={group} does not divide; "
            f"use a divisor of {here}, or shard the outputs"
        )
