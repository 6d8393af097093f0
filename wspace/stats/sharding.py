"""Where results lie on a mesh. With Explicit axes the sharding is part of an array's type, and has to be asked for."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from wspace.core.typing import Array


def explicit(x: Array) -> NamedSharding | None:
    """The sharding of an array on a mesh with Explicit axes; None elsewhere, where the compiler decides."""
    sharding = jax.typeof(x).sharding
    return sharding if sharding.mesh.explicit_axes else None


def whole(x: Array) -> NamedSharding | None:
    """For the `out_sharding` of what is computed from x: what every device gets. None if not Explicit."""
    sharding = explicit(x)
    return None if sharding is None else NamedSharding(sharding.mesh, PartitionSpec())


def gathered(x: Array, axis: int) -> Array:
    """x with one axis whole on every device, so that a loop can walk along it. Under Auto axes, x."""
    sharding = explicit(x)
    if sharding is None:
        return x
    spec = [*sharding.spec, *(None,) * (x.ndim - len(sharding.spec))]
    spec[axis] = None
    return jax.sharding.reshard(x, NamedSharding(sharding.mesh, PartitionSpec(*spec)))


def alike(x: Array, y: Array) -> Array:
    """x with the sharding of y, an array of the same shape, on whose values it does not depend.

    Over Auto axes by a select of two equal sides: the compiler gives it the sharding of its condition.
    """
    sharding = explicit(y)
    if sharding is not None:
        x = jax.sharding.reshard(x, sharding)
    return x if sharding is not None and not sharding.mesh.auto_axes else jnp.where(y == y, x, x)


def shards(x: Array, axis: int) -> int:
    """Into how many parts an axis is split, where that is known: 1 under Auto axes."""
    sharding = explicit(x)
    names = None if sharding is None else (*sharding.spec, *(None,) * x.ndim)[axis % x.ndim]
    if sharding is None or names is None:
        return 1
    return math.prod(sharding.mesh.shape[name] for name in (names if isinstance(names, tuple) else (names,)))
