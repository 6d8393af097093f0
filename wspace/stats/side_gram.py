"""The Gram matrix that a calibrated method is given for a leaf, checked and placed beside the leaf's matrix."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from wspace.core.errors import SideTreeError
from wspace.core.implicit import dense
from wspace.core.transform import Context
from wspace.core.typing import Array
from wspace.stats.gram import Diagonal
from wspace.stats.sharding import explicit


def gram_of(ctx: Context, w: Array, name: str = "gram") -> Array:
    """The leaf's entry of the side tree `gram` (or `cross`), `[*stack, in, in]`, in the dtype of its matrix w
    `[*stack, in, out]`.

    Raises:
      SideTreeError: there is none, or its shape is another (names the leaf and both shapes).
    """
    gram = dense(ctx.side(name))
    _check(ctx, gram.shape, (*w.shape[:-1], w.shape[-2]), name)
    return gram.astype(w.dtype)


def grams_of(ctx: Context, w: Array) -> list[Array]:
    """The same for a side tree `gram` that is a tuple of trees, one a model.

    Raises:
      SideTreeError: as `gram_of`; it is one tree.
    """
    return [gram_of(ctx._replace(sides={**ctx.sides, "gram": g}), w) for g in ctx.each("gram")]


def second_moments(ctx: Context, w: Array) -> Array:
    """The mean squares `[*stack, in]` of the inputs of a matrix w `[*stack, in, out]`: its Gram matrix's diagonal.

    Raises:
      SideTreeError: as `gram_of`.
    """
    side = ctx.side("gram")
    if isinstance(side, Diagonal):
        _check(ctx, side.diagonal.shape, w.shape[:-1])
        moments = jnp.asarray(side.diagonal).astype(w.dtype)
    else:
        gram = gram_of(ctx, w)
        row, column = (lax.broadcasted_iota(jnp.int32, gram.shape, gram.ndim - k) for k in (2, 1))
        moments = jnp.sum(jnp.where(row == column, gram, 0), axis=-1)
    return _beside(moments, w)


def per_input(ctx: Context, name: str, w: Array) -> Array:
    """The leaf's entry of a side tree with one number an input (abs_mean, abs_max, mean), `[*stack, in]`, in the dtype
    and beside the inputs of its matrix w `[*stack, in, out]`.

    Raises:
      SideTreeError: there is none, or its shape is another.
    """
    numbers = dense(ctx.side(name))
    _check(ctx, numbers.shape, w.shape[:-1], name)
    return _beside(numbers.astype(w.dtype), w)


def _beside(numbers: Array, w: Array) -> Array:
    sharding = explicit(w)
    if sharding is None:
        return numbers
    return jax.sharding.reshard(numbers, NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[: w.ndim - 1])))


def _check(ctx: Context, shape: tuple[int, ...], wanted: tuple[int, ...], name: str = "gram") -> None:
    if shape != wanted:
        raise SideTreeError(
            f"side tree {name!r} has {shape} for {ctx.spec.path} {ctx.spec.shape}, whose inputs ask for {wanted}; "
            f"make it with calibrate(){', or as the mean of x x^T' if name == 'gram' else ''}"
        )
