"""What the layouts of integer codes have in common: one matrix, unsigned codes, groups of inputs."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from wspace.core.axes import MatrixView
from wspace.core.errors import FormatError, ShapeError
from wspace.core.implicit import Implicit
from wspace.quant.integer import Integer
from wspace.quant.layouts.reordered import Reordered
from wspace.quant.qtensor import QTensor

Numbers = np.ndarray[Any, Any]


class Matrix(NamedTuple):
    """A quantized matrix on the host, its inputs in their own order.

    codes: uint8 `[in, out]`. scale: `[in/group, out]`, in the weight's dtype. zero: int16 `[in/group, out]`, the code
    that stands for 0 (2^(b-1) on a symmetric grid). group_of: int32 `[in]`, the row of scale of each input.
    """

    codes: Numbers
    scale: Numbers
    zero: Numbers
    group_of: Numbers
    bits: int
    symmetric: bool
    dtype: np.dtype[Any]


def to_matrix(node: Implicit, layout: str) -> Matrix:
    """The matrix of a QTensor, or of one in another order.

    Raises:
      FormatError: another kind of node or grid. ShapeError: a stack, or scales that outputs share.
    """
    q = node.inner if isinstance(node, Reordered) else node
    if not isinstance(q, QTensor) or not isinstance(q.grid, Integer):
        kind = q.format if isinstance(q, QTensor) else type(q).__name__
        raise FormatError(f"{layout} holds integer codes, not {kind}; quantize with bits=..., or materialize the leaf")
    codes, scale = np.asarray(q.codes), np.asarray(q.scale)
    if codes.ndim != 2:
        raise ShapeError(f"{layout} holds one matrix a leaf, not {codes.shape}; take the stack apart")
    inputs, outputs = codes.shape
    if scale.shape[1] not in (outputs, 1):
        raise ShapeError(f"{layout} has no scales of {outputs // scale.shape[1]} outputs; use group=int or None")
    half, shape = 2 ** (q.bits - 1), (scale.shape[0], outputs)
    zero = np.zeros(scale.shape, np.int8) if q.zero is None else np.asarray(q.zero)
    group_of = np.arange(inputs, dtype=np.int32) // (inputs // max(scale.shape[0], 1) or 1)
    unsigned = (codes.astype(np.int16) + half).astype(np.uint8)
    if isinstance(node, Reordered):
        back = np.argsort(np.asarray(node.order))
        unsigned, group_of = unsigned[back], group_of[back]
    return Matrix(
        unsigned,
        np.broadcast_to(scale, shape).astype(q.weight_dtype),
        np.broadcast_to(zero.astype(np.int16) + half, shape),
        group_of, q.bits, q.zero is None, q.weight_dtype,
    )  # fmt: skip


def from_matrix(m: Matrix, name: str) -> Implicit:
    """The node of a torch weight `[out, in]`: a QTensor, inside a Reordered where groups are not consecutive inputs.

    Raises:
      FormatError: a zero that is no code; groups of unequal size.
    """
    groups, half = len(m.scale), 2 ** (m.bits - 1)
    inputs, outputs = m.codes.shape
    if np.any(m.zero >= 2 * half):
        raise FormatError(
            f"{name}: a zero of {int(m.zero.max())} is no code of {m.bits} bits; is it the other version?"
        )
    codes, order = m.codes, None
    if not np.array_equal(m.group_of, np.arange(inputs) // (inputs // groups)):
        if np.any(np.bincount(m.group_of, minlength=groups) != inputs // groups):
            raise FormatError(f"{name}: its groups differ in size, which one array of scales can't hold")
        order = np.argsort(m.group_of, kind="stable").astype(np.int32)
        codes = codes[order]
    scales = {"scale": jnp.asarray(m.scale.astype(np.float32))}
    if not m.symmetric:
        scales["zero"] = jnp.asarray((m.zero - half).astype(np.int8))
    q = QTensor(
        jnp.asarray((codes.astype(np.int16) - half).astype(np.int8)), scales,
        format=f"int{m.bits}" + ("" if m.symmetric else "_asymmetric"),
        view=MatrixView((1, 0), (outputs, inputs), 0, 1), weight_dtype=m.dtype,
    )  # fmt: skip
    return q if order is None else Reordered(q, jnp.asarray(order), axis=1)


def wanted(parts: dict[str, Numbers], shapes: dict[str, tuple[int | None, ...]], name: str) -> None:
    """Raises FormatError if an array is missing or has another shape; None stands for any size."""
    for part, shape in shapes.items():
        if part not in parts:
            raise FormatError(f"{name}: there is no {part} beside {', '.join(sorted(parts))}")
        got = parts[part].shape
        if len(got) != len(shape) or any(n not in (None, m) for n, m in zip(shape, got, strict=True)):
            text = re.sub("None", "any", str(shape))
            raise FormatError(f"{name}: {part} has shape {got}, wanted {text}; is its number of bits another?")
