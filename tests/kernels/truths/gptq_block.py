"""One input and one output after another."""

from __future__ import annotations

from typing import Any

import numpy as np
from wspace_kernels.gptq_block.api import Solved


def gptq_block(w: Any, factor: Any, scale: Any, zero: Any = None, bits: int = 4) -> Any:
    w, factor, scale = (np.array(x, np.float64) for x in (w, factor, scale))
    codes, made, errors = np.zeros(w.shape, np.int8), np.zeros(w.shape), np.zeros(w.shape)
    block, outputs = w.shape
    for o in range(outputs):
        for i in range(block):
            g = i * len(scale) // block
            shift = 0 if zero is None else int(zero[g, o])
            code = min(max(round(w[i, o] / scale[g, o] + shift), -(2 ** (bits - 1))), 2 ** (bits - 1) - 1)
            codes[i, o], made[i, o] = code, (code - shift) * scale[g, o]
            errors[i, o] = (w[i, o] - made[i, o]) / factor[i, i]
            for j in range(i + 1, block):
                w[j, o] -= factor[i, j] * errors[i, o]
    return Solved(codes, made, errors)
