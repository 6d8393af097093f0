"""Gram matrices of what a matrix sees: the statistic of GPTQ, SparseGPT and their kin, and of matching two models."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from wspace.core.errors import ShapeError
from wspace.core.fold import Fold
from wspace.core.implicit import Implicit, implicit
from wspace.core.typing import Array
from wspace.stats.seen import Lookup, Rows, contract


@implicit
class Diagonal(Implicit):
    """A diagonal matrix, kept as its diagonal: the Gram matrix of a table whose rows are looked up one by one."""

    diagonal: Array

    def materialize(self) -> Array:
        return jnp.zeros((*self.diagonal.shape, self.diagonal.shape[-1]), self.diagonal.dtype) + (
            self.diagonal[..., None] * jnp.eye(self.diagonal.shape[-1], dtype=self.diagonal.dtype)
        )


class Products(NamedTuple):
    """Sums of x yᵀ, f32 `[in, in]` (or Diagonal), and of the tokens' weights, f32 `[in]`."""

    total: Array | Diagonal
    tokens: Array


def gram() -> Fold:
    """Mean of x xᵀ over tokens, `[in, in]` in the matrix view's order of inputs; Diagonal for a looked-up table.

    Weights of tokens weigh each product; uses of one parameter add up. Accumulated in float32.

    Example:
      >>> from wspace.stats.seen import Rows, Seen
      >>> g = gram()
      >>> g.finish(g.lift(Seen(Rows(jnp.array([[1.0, 2.0], [3.0, 0.0]])), None)))
      Array([[5., 1.],
             [1., 2.]], dtype=float32)
    """
    return _GRAM


def cross() -> Fold:
    """Mean of x yᵀ over tokens, `[in, in]`: x is what a matrix of one model sees, y what the other model's does.

    Takes two models: `calibrate(apply, a, batches, {"cross": cross()}, other=b)`. Weights are those of the tokens.
    """
    return _CROSS


def _products(x: Rows | Lookup, y: Rows | Lookup) -> Products:
    if isinstance(x, Lookup):
        return Products(Diagonal(x.counts()), x.tokens())  # both models look up the same rows
    if isinstance(y, Lookup):
        raise ShapeError("cross: one model looks up what the other multiplies; both must be of one program")
    if x.weights is None and x.values.dtype.itemsize < 4:
        return Products(
            contract(x.values, y.values, x is y), x.tokens()
        )  # products of 16-bit numbers are exact in float32
    return Products(contract(x.weigh(x.wide()), y.wide(), x is y), x.tokens())


def _add(a: Products, b: Products) -> Products:
    return jax.tree.map(jnp.add, a, b)


def _mean(s: Products) -> Array | Diagonal:
    """Each sum over its number of tokens: entries i, j that different numbers of tokens have share their geometric
    mean, which keeps the matrix positive semidefinite. Nothing seen is zero."""
    count = s.tokens
    if isinstance(s.total, Diagonal):
        return Diagonal(_over(s.total.diagonal, count))
    root = jnp.sqrt(count)
    return _over(s.total, jnp.where(count[:, None] == count[None], count[:, None], root[:, None] * root[None]))


def _over(total: Array, count: Array) -> Array:
    return jnp.where(count > 0, total / jnp.where(count > 0, count, jnp.ones_like(count)), jnp.zeros_like(total))


# made once, so that what is compiled for them is found again
_GRAM = Fold(lambda seen: _products(seen.inputs, seen.inputs), _add, _mean)
_CROSS = Fold(lambda a, b: _products(a.inputs, b.inputs), _add, _mean, models=2)
