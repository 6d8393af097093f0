"""QTensor: a leaf kept as small integer codes and one scale a group."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from wspace.core.axes import MatrixView
from wspace.core.implicit import Implicit, implicit, static, stored_bits
from wspace.core.transform import Context, narrow
from wspace.core.typing import Array
from wspace.quant.grid import Grid, decode, group_of


@implicit
class QTensor(Implicit):
    """A quantized leaf: `scale (codes - zero)`, in the leaf's own layout and dtype once materialized.

    codes: int8 `[*stack, in, out]`, within `bits` bits; in memory a byte each, in a file packed.
    scale: float32 (float64 for a float64 leaf) `[*stack, in/group, out]`, weight units a step.
    zero: int8, like scale: the code that stands for 0. None: 0 everywhere.
    bits, view (how the leaf lies as a matrix) and weight_dtype are static.
    """

    codes: Array
    scale: Array
    zero: Array | None
    bits: int = static()
    view: MatrixView = static()
    weight_dtype: np.dtype = static()

    @property
    def group(self) -> int:
        """How many inputs share a scale."""
        return group_of(self.codes, self.scale)

    def materialize(self) -> Array:
        return narrow(self.view.from_matrix(decode(self.codes, Grid(self.scale, self.zero))), self.weight_dtype)

    def stored_bits(self) -> int:
        """Codes and zeros of `bits` bits, and the scales."""
        zeros = 0 if self.zero is None else math.prod(self.zero.shape)
        return (math.prod(self.codes.shape) + zeros) * self.bits + stored_bits(self.scale)

    def parts(self) -> dict[str, Any]:
        dtype = jnp.int2 if self.bits == 2 else jnp.int4 if self.bits <= 4 else jnp.int8
        zero = None if self.zero is None else self.zero.astype(dtype)
        return {"codes": self.codes.astype(dtype), "scale": self.scale, "zero": zero}

    @classmethod
    def from_stored(cls, parts: dict[str, Any], static: dict[str, Any]) -> QTensor:
        zero = None if parts["zero"] is None else parts["zero"].astype(jnp.int8)
        return cls(codes=parts["codes"].astype(jnp.int8), scale=parts["scale"], zero=zero, **static)


def qtensor(codes: Array, grid: Grid, bits: int, ctx: Context) -> QTensor:
    """The QTensor of the leaf that a transform is at, from the codes of its matrix."""
    return QTensor(codes, grid.scale, grid.zero, bits=bits, view=ctx.view(), weight_dtype=np.dtype(ctx.spec.dtype))
