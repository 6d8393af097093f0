"""AWQ's layout ("gemm"): AutoAWQ, and the AWQ folders of Hugging Face's hub. 4 bits.

A module has `qweight` int32 [in, out/8] and `qzeros` int32 [in/group, out/8], packed along the outputs, and `scales`
float16 [in/group, out]. The eight outputs of a word lie in it in the order 0, 2, 4, 6, 1, 3, 5, 7, lowest bits first.

    w = scale (code - zero),   codes unsigned
"""

from __future__ import annotations

import numpy as np

from wspace.core.errors import FormatError
from wspace.core.implicit import Implicit
from wspace.quant.layouts.matrix import Matrix, Numbers, from_matrix, to_matrix, wanted
from wspace.quant.layouts.words import from_words, to_words

PARTS = ("qweight", "qzeros", "scales")
BITS = 4
ORDER = np.array([0, 2, 4, 6, 1, 3, 5, 7])  # which output lies in each nibble of a word


def write(node: Implicit) -> dict[str, Numbers]:
    """The arrays of one module.

    Raises:
      FormatError: other than 4 bits, outputs that 8 does not divide, groups that are not consecutive inputs.
    """
    m = to_matrix(node, "AWQ")
    inputs, outputs = m.codes.shape
    if m.bits != BITS or outputs % 8:
        raise FormatError(f"AWQ packs 4 bits of 8 outputs to a word, not [{inputs}, {outputs}] of {m.bits} bits")
    if np.any(np.diff(m.group_of) < 0):
        raise FormatError("AWQ has no g_idx: groups must be consecutive inputs; quantize without reordered groups")
    return {
        "qweight": to_words(_ordered(m.codes, ORDER), BITS, axis=1),
        "qzeros": to_words(_ordered(m.zero, ORDER), BITS, axis=1),
        "scales": m.scale.astype(np.float16),
    }


def read(parts: dict[str, Numbers], name: str = "an AWQ module") -> Implicit:
    """The QTensor of a module's arrays.

    Raises:
      FormatError: missing arrays, shapes that don't fit each other.
    """
    wanted(parts, {"qweight": (None, None), "scales": (None, None)}, name)
    inputs, words = parts["qweight"].shape
    groups, outputs = parts["scales"].shape[0], 8 * words
    wanted(parts, {"scales": (None, outputs), "qzeros": (groups, words)}, name)
    if groups == 0 or inputs % groups:
        raise FormatError(f"{name}: {groups} groups do not divide {inputs} inputs")
    codes, zero = (
        _ordered(from_words(parts[part], BITS, outputs, axis=1), np.argsort(ORDER)) for part in ("qweight", "qzeros")
    )
    group_of, scales = np.arange(inputs, dtype=np.int32) // (inputs // groups), parts["scales"]
    return from_matrix(Matrix(codes, scales, zero.astype(np.int16), group_of, BITS, False, scales.dtype), name)


def _ordered(codes: Numbers, order: Numbers) -> Numbers:
    """Every eight outputs in another order."""
    return codes.reshape(len(codes), -1, 8)[..., order].reshape(codes.shape)
