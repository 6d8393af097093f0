"""QTensor: a leaf kept as small codes and the scales of their blocks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from wspace.core.axes import MatrixView
from wspace.core.implicit import Implicit, implicit, static, stored_bits
from wspace.core.transform import Context, narrow, working_dtype
from wspace.core.typing import Array
from wspace.quant.formats import named
from wspace.quant.grid import Grid, Scales, decode
from wspace.quant.packing import pack, unpack


@implicit
class QTensor(Implicit):
    """A quantized leaf: codes on a grid, in the leaf's own layout and dtype once materialized.

    codes: int8 or uint8 (a float8 dtype, if that is the grid) `[*stack, in, out]`; in a file packed to grid.bits bits.
    scales: "scale", float32 (float64 for a float64 leaf) `[*stack, in/group, out/width]`, weight units a step; and what
      else the grid has: "zero", int8, the code that stands for 0.
    format (the grid's name), view (how the leaf lies as a matrix) and weight_dtype are static.
    """

    codes: Array
    scales: dict[str, Array]
    format: str = static()
    view: MatrixView = static()
    weight_dtype: np.dtype = static()

    @property
    def grid(self) -> Grid:
        return named(self.format)

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return self.grid.bits

    @property
    def scale(self) -> Array:
        return self.scales["scale"]

    @property
    def zero(self) -> Array | None:
        return self.scales.get("zero")

    @property
    def group(self) -> int:
        """How many inputs share a scale."""
        rows = max(s.shape[self.codes.ndim - 2] for s in self.scales.values())
        return max(self.codes.shape[-2] // max(rows, 1), 1)

    def materialize(self) -> Array:
        return narrow(self.view.from_matrix(decode(self.codes, self.grid, self.scales)), self.weight_dtype)

    def stored_bits(self) -> int:
        """Codes and zeros of `bits` bits, and the scales in the dtype of the file."""
        zeros = 0 if self.zero is None else math.prod(self.zero.shape)
        rest = sum(stored_bits(self.grid.stored(n, s)) for n, s in self.scales.items() if n != "zero")
        return (math.prod(self.codes.shape) + zeros) * self.bits + rest

    def parts(self) -> dict[str, Any]:
        scales = {name: self.grid.stored(name, s) for name, s in self.scales.items() if name != "zero"}
        zero = {} if self.zero is None else {"zero": pack(self.zero, self.bits)}
        return {"codes": pack(self.codes, self.bits), **scales, **zero}

    @classmethod
    def from_stored(cls, parts: dict[str, Any], static: dict[str, Any]) -> QTensor:
        held = {name: part for name, part in parts.items() if part is not None}
        grid, wide = named(static["format"]), working_dtype(static["weight_dtype"])
        codes = unpack(held.pop("codes"), static["view"].matrix_shape, grid.bits, grid.code_dtype)
        scales = {n: s if n == "zero" else s.astype(wide) for n, s in held.items()}
        if "zero" in held:
            scales["zero"] = unpack(held["zero"], scales["scale"].shape, grid.bits, "int8")
        return cls(codes, scales, **static)


def qtensor(codes: Array, grid: Grid, scales: Scales, ctx: Context) -> QTensor:
    """The QTensor of the leaf that a transform is at, from the codes of its matrix."""
    return QTensor(codes, dict(scales), format=grid.name, view=ctx.view(), weight_dtype=np.dtype(ctx.spec.dtype))
