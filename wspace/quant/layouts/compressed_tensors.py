"""compressed-tensors: the layout of llm-compressor and vLLM; integers packed ("pack-quantized").

A module has `weight_packed` int32 [out, in bits/32] and `weight_shape` int64 [2]; `weight_scale` [out, in/group] in the
weight's dtype; and, not symmetric, `weight_zero_point` int32 [out bits/32, in/group], packed along the outputs.
Codes are signed, and 2^(bits-1) is added before they are packed: one stream of bits, which crosses words.

    w = scale (code - zero)

Facts that are in the folder's config and not beside the arrays: bits and whether zeros are stored.
"""

from __future__ import annotations

import numpy as np

from wspace.core.errors import FormatError
from wspace.core.implicit import Implicit
from wspace.quant.layouts.matrix import Matrix, Numbers, from_matrix, to_matrix, wanted
from wspace.quant.layouts.words import from_words, to_words, words_of

PARTS = ("weight_packed", "weight_shape", "weight_scale", "weight_zero_point", "weight_g_idx")


def write(node: Implicit) -> dict[str, Numbers]:
    """The arrays of one module.

    Raises:
      FormatError: another kind of grid. ShapeError: a stack of matrices, scales that outputs share.
    """
    m = to_matrix(node, "compressed-tensors")
    parts = {
        "weight_packed": to_words(m.codes.T, m.bits, axis=1),
        "weight_shape": np.array(m.codes.T.shape, np.int64),
        "weight_scale": np.ascontiguousarray(m.scale.T),
    }
    if not m.symmetric:
        parts["weight_zero_point"] = to_words(m.zero.T, m.bits, axis=0)
    if np.any(np.diff(m.group_of) < 0):
        parts["weight_g_idx"] = m.group_of
    return parts


def read(parts: dict[str, Numbers], bits: int, symmetric: bool = True, name: str = "a packed module") -> Implicit:
    """The node of a module's arrays.

    Raises:
      FormatError: missing arrays, shapes that don't fit each other or `bits`.
    """
    wanted(parts, {"weight_packed": (None, None), "weight_shape": (2,), "weight_scale": (None, None)}, name)
    outputs, inputs = (int(n) for n in parts["weight_shape"])
    scale = parts["weight_scale"]
    groups = scale.shape[1]
    if scale.shape[0] not in (outputs, 1) or groups == 0 or inputs % groups:
        raise FormatError(f"{name}: scales of shape {scale.shape} do not divide a weight [{outputs}, {inputs}]")
    wanted(parts, {"weight_packed": (outputs, words_of(inputs, bits))}, name)
    zero = np.full((groups, outputs), 2 ** (bits - 1), np.int16)
    if not symmetric:
        wanted(parts, {"weight_zero_point": (words_of(outputs, bits), groups)}, name)
        zero = from_words(parts["weight_zero_point"], bits, outputs, axis=0).T.astype(np.int16)
    codes = from_words(parts["weight_packed"], bits, inputs, axis=1).T
    group_of = parts.get("weight_g_idx", np.arange(inputs, dtype=np.int32) // (inputs // groups))
    if group_of.shape != (inputs,) or np.any((group_of < 0) | (group_of >= groups)):
        raise FormatError(f"{name}: weight_g_idx does not give one of {groups} groups to each of {inputs} inputs")
    wide = np.broadcast_to(scale, (outputs, groups)).T
    return from_matrix(Matrix(codes, wide, zero, group_of, bits, symmetric, scale.dtype), name)
