"""Rows of scale choices and layer solvers, and their slow numpy truths."""

from __future__ import annotations

from typing import Any

import numpy as np

import wspace as ws
from tests.quant.grids import decoded, grid_of
from tests.rows import Row
from tests.stats.grams import grams
from wspace.quant.clip import Search

Arrays = list[np.ndarray]


def per_layer(truth: Any) -> Any:
    """A truth of one matrix, layer by layer of a stack."""

    def run(leaves: Arrays, sides: Any, key: Any, **settings: Any) -> np.ndarray:
        (w,) = leaves
        if w.ndim == 2:
            return truth(w, sides, **settings)
        each = [{n: s[k] for n, s in sides.items() if s is not None} for k in range(len(w))]
        return np.stack([truth(x, s, **settings) for x, s in zip(w, each, strict=True)])

    return run


@per_layer
def searched(w: np.ndarray, sides: Any, bits: int, scale: Search, group: int = 16) -> np.ndarray:
    """Every ratio of every group of every output tried on its own."""
    out = np.zeros_like(w)
    for start in range(0, len(w), group):
        part = slice(start, start + group)
        weigh = np.diag(sides["gram"])[part] if scale.weighted else np.ones(group)
        for o in range(w.shape[1]):
            column = w[part, o : o + 1]
            tried = []
            for k in range(scale.steps):
                step, zero = grid_of(column * (1 - k * (1 - scale.least) / scale.steps), bits, True)
                made = decoded(column, step, zero, bits)
                tried.append((np.sum(weigh * np.abs(made - column)[:, 0] ** scale.power), k, made[:, 0]))
            out[part, o] = min(tried, key=lambda t: t[:2])[2]
    return out


ROWS = [
    Row(
        "quant.rtn(search)",
        ws.quant.rtn,
        searched,
        settings={"bits": 3, "scale": Search(9, 0.4137, 2.4, weighted=True)},
        sides=grams,
        matrices=True,
    ),
]
