"""Rounding, weight by weight."""

from __future__ import annotations

from typing import Any

import numpy as np


def fake_quant(w: Any, step: Any = None, bits: int = 4, group: int | None = None) -> Any:
    w = np.asarray(w, np.float64)
    seen = np.zeros_like(w)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    size = group or len(w) // (1 if step is None else len(step))
    for i, o in np.ndindex(w.shape):
        first = i // size * size
        s = np.abs(w[first : first + size, o]).max() / high if step is None else float(step[i // size, o])
        seen[i, o] = s * min(max(np.rint(w[i, o] / s), low), high)
    return seen
