"""Nodes around a quantized leaf: what is kept beside the codes, or multiplied onto them.

base is a node (a QTensor, or one of these) or an array. All amend its matrix `[*stack, in, out]` and give the leaf back
in its own layout and dtype.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from wspace.core.axes import MatrixView
from wspace.core.errors import WspaceError
from wspace.core.implicit import Implicit, dense, implicit, static
from wspace.core.transform import Context, Transform, narrow, over_stack, working_dtype
from wspace.core.typing import Array, Leaf
from wspace.stats.sharding import alike, explicit, gathered
from wspace.stats.side_gram import gram_of, per_input


class Amended(Implicit):
    """What the nodes of this file share. base: node or array. view: how the leaf lies as a matrix."""

    base: Leaf
    view: MatrixView
    weight_dtype: np.dtype

    def materialize(self) -> Array:
        matrix = self.view.to_matrix(dense(self.base))
        amended = self.amended(matrix.astype(working_dtype(self.weight_dtype)))
        return narrow(self.view.from_matrix(amended), self.weight_dtype)

    def amended(self, matrix: Array) -> Array:
        """The leaf's matrix, from that of base."""
        raise TypeError(f"{type(self).__name__} does not define amended()")


@implicit
class KeptInputs(Amended):
    """Some inputs are kept as they are: rows `[*stack, k, out]`, in the leaf's dtype, of the inputs index
    `[*stack, k]`. Trainable: rows."""

    base: Leaf
    rows: Array
    index: Array
    view: MatrixView = static()
    weight_dtype: np.dtype = static()

    trainable = frozenset({"rows"})

    def amended(self, matrix: Array) -> Array:
        return over_stack(_with_rows, self.view.stacks)(matrix, self.rows.astype(matrix.dtype), self.index)


@implicit
class KeptEntries(Amended):
    """Some entries are kept as they are: values `[*stack, k]`, in the leaf's dtype, at inputs and outputs
    `[*stack, k]`. Trainable: values."""

    base: Leaf
    values: Array
    inputs: Array
    outputs: Array
    view: MatrixView = static()
    weight_dtype: np.dtype = static()

    trainable = frozenset({"values"})

    def amended(self, matrix: Array) -> Array:
        here = gathered(gathered(matrix, -1), -2)
        put = over_stack(_with_entries, self.view.stacks)
        return alike(put(here, self.values.astype(matrix.dtype), self.inputs, self.outputs), matrix)


@implicit
class PerInput(Amended):
    """Each input has a factor: gain `[*stack, in]`, float32 (float64). w = gain_i base_ij."""

    base: Leaf
    gain: Array
    view: MatrixView = static()
    weight_dtype: np.dtype = static()

    def amended(self, matrix: Array) -> Array:
        return matrix * self.gain[..., None].astype(matrix.dtype)


@implicit
class LowRank(Amended):
    """A correction of low rank: base + a b, a `[*stack, in, rank]` and b `[*stack, rank, out]` in the leaf's dtype.
    Trainable: a and b."""

    base: Leaf
    a: Array
    b: Array
    view: MatrixView = static()
    weight_dtype: np.dtype = static()

    trainable = frozenset({"a", "b"})

    def amended(self, matrix: Array) -> Array:
        a, b = (x.astype(matrix.dtype) for x in (self.a, self.b))
        return matrix + jnp.matmul(a, b, precision=lax.Precision.HIGHEST, out_sharding=explicit(matrix))


def _with_rows(matrix: Array, rows: Array, index: Array) -> Array:
    """By looking up, for each input, whether and where it is kept: a sharded output axis stays where it is."""
    if index.size == 0:
        return matrix
    match = lax.broadcasted_iota(jnp.int32, (matrix.shape[0], 1), 0) == index.astype(jnp.int32)[None]
    kept = rows.at[jnp.argmax(match, axis=1)].get(mode="promise_in_bounds", out_sharding=explicit(matrix))
    return jnp.where(jnp.any(match, axis=1, keepdims=True), kept, matrix)


def _with_entries(matrix: Array, values: Array, inputs: Array, outputs: Array) -> Array:
    at = (inputs.astype(jnp.int32), outputs.astype(jnp.int32))
    return matrix.at[at].set(values, mode="promise_in_bounds")


def positions(x: Array, size: int) -> Array:
    """Positions along an axis of this size, in the narrowest dtype."""
    return x.astype(jnp.uint16 if size <= 2**16 else jnp.uint32)


def entries(mask: Array, count: int) -> tuple[Array, Array]:
    """Inputs and outputs of the first `count` true entries of a mask `[in, out]`, in row-major order; if there are
    fewer, entry 0, 0 again and again."""
    rows, columns = mask.shape
    at = jnp.nonzero(mask, size=count, fill_value=0)
    return positions(at[0], rows), positions(at[1], columns)


def inside(ctx: Context) -> Context:
    """The context of a leaf that lies within another node: it is computed in full width and narrowed once."""
    return ctx._replace(spec=ctx.spec._replace(dtype=np.dtype(working_dtype(ctx.spec.dtype))))


def facts(ctx: Context) -> dict[str, Any]:
    """The static fields of these nodes."""
    return {"view": ctx.view(), "weight_dtype": np.dtype(ctx.spec.dtype)}


def scaled_inputs(w: Array, scale: Array, then: Transform, ctx: Context) -> PerInput:
    """The node of a matrix w `[*stack, in, out]` whose inputs are multiplied by scale `[*stack, in]`, then transformed:
    by a transform that meets inputs divided by it, so in its side trees too."""
    sides = dict(ctx.sides)
    for name in {"abs_mean", "abs_max", "mean"} & sides.keys():
        sides[name] = per_input(ctx, name, w) / scale
    if sides.get("gram") is not None:
        gram, whole = gram_of(ctx, w), gathered(scale, -1)
        sides["gram"] = gram / (whole[..., None] * whole[..., None, :])
    inner = inside(ctx)._replace(sides=sides)
    leaf = ctx.view().from_matrix(w * scale[..., None])
    return PerInput(then.apply((leaf,), inner), 1 / scale, **facts(ctx))


def check_single(then: Transform, name: str) -> Transform:
    """Raises WspaceError if a transform that another one applies to parts of a leaf reads the tree first."""
    if then.folds or then.arity != 1:
        raise WspaceError(f"{name} can't apply {then.name}, which reads the tree first; use a layer solver, like rtn")
    return then
