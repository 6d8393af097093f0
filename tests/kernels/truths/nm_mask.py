"""Packing, group by group, after a stable sort."""

from __future__ import annotations

from typing import Any

import numpy as np


def nm_pack(w: Any, score: Any = None, n: int = 2, m: int = 4) -> Any:
    w = np.asarray(w, np.float64)
    score = np.abs(w if score is None else np.asarray(score, np.float64))
    *stack, inputs, outputs = w.shape
    values = np.zeros((*stack, n, inputs // m, outputs))
    each = inputs // m // (4 // n)
    indices = np.zeros((*stack, each, outputs), np.uint8)
    for layer in np.ndindex(*stack):
        for g in range(inputs // m):
            for o in range(outputs):
                rows = sorted(range(g * m, g * m + m), key=lambda r, at=layer, o=o: -score[at][r, o])
                for slot, row in enumerate(sorted(rows[:n])):
                    values[layer][slot, g, o] = w[layer][row, o]
                    field = (g // each) * n + slot
                    indices[layer][g % each, o] += (row - g * m) * 4**field
    return values, indices
