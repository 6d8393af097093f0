"""GPTQ's layout: AutoGPTQ, GPTQModel and the GPTQ folders of Hugging Face's hub.

A module has `qweight` int32 [in bits/32, out], packed along the inputs; `qzeros` int32 [in/group, out bits/32], along
the outputs; `scales` float16 [in/group, out]; `g_idx` int32 [in], the group of each input.

    w = scale (code - zero),   codes unsigned

Version 1 ("gptq", what is on the hub) stores zero - 1, and so can't hold a zero of 0; "gptq_v2" stores zero. Codes of
3 bits run across words: 32 of them in 3 words.
"""

from __future__ import annotations

import numpy as np

from wspace.core.errors import FormatError
from wspace.core.implicit import Implicit
from wspace.quant.layouts.matrix import Matrix, Numbers, from_matrix, to_matrix, wanted
from wspace.quant.layouts.words import from_words, to_words, words_of

PARTS = ("qweight", "qzeros", "scales", "g_idx")
BITS = (2, 3, 4, 8)


def write(node: Implicit, version: int = 1) -> dict[str, Numbers]:
    """The arrays of one module. version: 1 stores zero - 1, 2 stores zero.

    Raises:
      FormatError: other bits than 2, 3, 4, 8; a zero of 0 in version 1; sizes that no whole word holds.
    """
    m = to_matrix(node, "GPTQ")
    inputs, outputs = m.codes.shape
    if m.bits not in BITS or inputs * m.bits % 32 or outputs * m.bits % 32:
        raise FormatError(f"GPTQ packs 2, 3, 4 or 8 bits to whole words, not [{inputs}, {outputs}] of {m.bits} bits")
    if version == 1 and np.any(m.zero == 0):
        raise FormatError("GPTQ's version 1 stores zero - 1, and here is a zero of 0; use version=2 (gptq_v2)")
    return {
        "qweight": to_words(m.codes, m.bits, axis=0),
        "qzeros": to_words(m.zero - (version == 1), m.bits, axis=1),
        "scales": m.scale.astype(np.float16),
        "g_idx": m.group_of,
    }


def read(parts: dict[str, Numbers], bits: int, version: int = 1, name: str = "a GPTQ module") -> Implicit:
    """The node of a module's arrays; symmetric if all zeros are 2^(bits-1).

    Raises:
      FormatError: missing arrays, shapes that don't fit each other or `bits`, a zero that is no code.
    """
    wanted(parts, {"qweight": (None, None), "scales": (None, None)}, name)
    rows, outputs = parts["qweight"].shape
    inputs, groups = rows * 32 // bits, parts["scales"].shape[0]
    shapes = {"scales": (None, outputs), "qzeros": (groups, words_of(outputs, bits))}
    wanted(parts, shapes | ({"g_idx": (inputs,)} if "g_idx" in parts else {}), name)
    if groups == 0 or inputs % groups:
        raise FormatError(f"{name}: {groups} groups do not divide {inputs} inputs; is its number of bits another?")
    zero = from_words(parts["qzeros"], bits, outputs, axis=1).astype(np.int16) + (version == 1)
    group_of = parts.get("g_idx", np.arange(inputs, dtype=np.int32) // (inputs // groups))
    if np.any((group_of < 0) | (group_of >= groups)):
        raise FormatError(f"{name}: g_idx names group {int(group_of.max())} of {groups}")
    symmetric = bool(np.all(zero == 2 ** (bits - 1)))
    codes = from_words(parts["qweight"], bits, inputs, axis=0)
    return from_matrix(Matrix(codes, parts["scales"], zero, group_of, bits, symmetric, parts["scales"].dtype), name)
