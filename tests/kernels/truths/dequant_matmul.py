"""Products of quantized weights, one code after another."""

from __future__ import annotations

from typing import Any

import numpy as np


def dequant_matmul(x: Any, codes: Any, scale: Any, zero: Any = None, levels: Any = None) -> Any:
    x, codes, scale = np.asarray(x, np.float64), np.asarray(codes), np.asarray(scale, np.float64)
    inputs, outputs = x.shape[1], codes.shape[1]
    w = np.zeros((inputs, outputs))
    for i in range(inputs):
        for o in range(outputs):
            if len(codes) == inputs:
                number = int(codes[i, o])
            else:
                byte = int(codes[i % (inputs // 2), o])
                number = byte // 16 if i >= inputs // 2 else byte % 16
                if levels is None and number > 7:
                    number -= 16
            g = i * len(scale) // inputs
            value = (*levels, 0.0)[number] if levels is not None else number
            w[i, o] = (value - (0 if zero is None else int(zero[g, o]))) * scale[g, o]
    return x @ w
