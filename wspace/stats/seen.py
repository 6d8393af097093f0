"""What one matrix sees of a batch: the rows that enter it and the rows that come out. Folds over batches lift these.

A fold over batches is written for one matrix `[in, out]`: `lift(seen) -> S`; a fold over pairs of models lifts two.
Stacked layers are mapped over it. A summary of zeros is the identity of its merge.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from wspace.core.errors import ShapeError
from wspace.core.fold import Fold
from wspace.core.transform import working_dtype
from wspace.core.typing import Array
from wspace.stats.halves import symmetric_product
from wspace.stats.sharding import whole

MANY = 2048  # inputs from which on halving a product saves time


class Rows(NamedTuple):
    """One row a token. values: `[*tokens, width]`, floating. weights: f32 `[*tokens]`, None is 1 for each.

    present: f32 `[width]`, 0 where this use of the matrix has no such entry (it reads a slice); None is 1 for each.
    """

    values: Array
    weights: Array | None = None
    present: Array | None = None

    def wide(self) -> Array:
        """The values to compute with, float32 (or float64); 0 for tokens of weight 0, which may be NaN."""
        x = self.values.astype(working_dtype(self.values.dtype))
        return x if self.weights is None else jnp.where(self.weights[..., None] != 0, x, jnp.zeros_like(x))

    def weigh(self, x: Array) -> Array:
        """x `[*tokens, width]` times the tokens' weights."""
        return x if self.weights is None else x * self.weights[..., None].astype(x.dtype)

    def tokens(self) -> Array:
        """Sum of the weights of the tokens that have an entry, f32 `[width]`."""
        *tokens, width = self.values.shape
        n = jnp.float32(math.prod(tokens)) if self.weights is None else jnp.sum(self.weights)
        return n * (jnp.ones(width, jnp.float32) if self.present is None else self.present)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Lookup:
    """Rows of an embedding table that are looked up: inputs that are one 1 among `width` zeros, kept as indices.

    ids: int32 `[*tokens]`; out of 0..width is no row. weights: as in Rows.
    """

    ids: Array
    weights: Array | None
    width: int = field(metadata={"static": True})

    def counts(self) -> Array:
        """How often each row was looked up, weighted, f32 `[width]`."""
        weights = jnp.ones(self.ids.shape, jnp.float32) if self.weights is None else self.weights
        return jnp.zeros(self.width, jnp.float32).at[self._inside()].add(weights, mode="drop")

    def tokens(self) -> Array:
        """Sum of the weights of all tokens, f32 `[width]`, the same for each entry."""
        n = jnp.float32(math.prod(self.ids.shape)) if self.weights is None else jnp.sum(self.weights)
        return jnp.full(self.width, n, jnp.float32)

    def _inside(self) -> Array:
        return jnp.where((self.ids >= 0) & (self.ids < self.width), self.ids, self.width)


class Seen(NamedTuple):
    """inputs: the rows that a matrix multiplies. outputs: the products, before any bias; None where they can't be told
    apart from those of other parameters."""

    inputs: Rows | Lookup
    outputs: Rows | None


def outputs(fold: Fold) -> Fold:
    """A fold over batches of what comes out of a matrix instead of what goes in.

    Example:
      >>> from wspace.stats.moments import mean
      >>> rows = Rows(jnp.ones((2, 3)))
      >>> f = outputs(mean())
      >>> f.finish(f.lift(Seen(Rows(jnp.zeros((2, 5))), rows)))
      Array([1., 1., 1.], dtype=float32)

    Raises (when run):
      ShapeError: the outputs of a leaf can't be told apart.
    """

    return _outputs(fold)


@functools.cache
def _outputs(fold: Fold) -> Fold:
    return fold._replace(lift=lambda *seen: fold.lift(*map(_turned, seen)))


def _turned(seen: Seen) -> Seen:
    if seen.outputs is None:
        raise ShapeError("outputs: the products of a leaf are mixed with those of others, so they have no statistics")
    return Seen(seen.outputs, None)


def contract(x: Array, y: Array, symmetric: bool = False) -> Array:
    """The sum over tokens of x yᵀ, f32 `[width, width]` from `[*tokens, width]`, at full precision, on every device.

    symmetric: that the sum is: of many inputs, which lie on one device, little more than half is computed.
    """
    if symmetric and x.shape[-1] >= MANY and jax.typeof(x).sharding.mesh.empty:
        return symmetric_product(x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1]), 3)
    axes = tuple(range(x.ndim - 1))
    wide = working_dtype(x.dtype, y.dtype)
    return lax.dot_general(
        x,
        y,
        ((axes, axes), ((), ())),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=wide,
        out_sharding=whole(x),
    )
