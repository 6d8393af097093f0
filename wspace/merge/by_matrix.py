"""Merging task vectors matrix by matrix, and the leaves that are none by their mean: the frame of spectral methods."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax

from wspace.core.axes import has_matrix
from wspace.core.compose import around_base
from wspace.core.transform import Context, Transform, leafwise, over_stack
from wspace.core.typing import Array
from wspace.stats.sharding import alike, gathered


def by_matrix(name: str, fn: Callable[..., Array], lam: Array | float) -> Transform:
    """A merge of n models from a function on their task vectors of one matrix, n of `[in, out]`, whole on every device.

    Stacked layers are merged one by one, convolutions as `[taps * in, out]`. The merged task vector is scaled by lam.
    """

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Array:
        if has_matrix(ctx.spec.axes) and leaves[0].size:
            view = ctx.view()
            given = [view.to_matrix(x) for x in leaves]
            whole = [gathered(gathered(m, -1), -2) for m in given]
            merged = view.from_matrix(alike(over_stack(fn, view.stacks)(*whole), given[0]))
        else:
            merged = sum(leaves[1:], leaves[0]) / len(leaves)
        return jnp.asarray(lam, merged.dtype) * merged

    return around_base(leafwise(name, apply, arity=None), name=name)


def times(*factors: Array) -> Array:
    """The product of two or more matrices, in the order that costs least, in full float32 on every device."""
    return jnp.linalg.multi_dot(factors, precision=lax.Precision.HIGHEST)
