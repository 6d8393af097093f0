"""Rows of the quant room and their slow numpy truths."""

from __future__ import annotations

from typing import Any

import numpy as np

import wspace as ws
from tests.quant import codebook_rows, training_rows
from tests.quant.grids import code_of, grid_of
from tests.quant.learned_rows import ROWS as LEARNED_ROWS
from tests.quant.solver_rows import ROWS as SOLVER_ROWS
from tests.quant.test_qep import ROWS as QEP_ROWS
from tests.quant.test_rotate import ROWS as ROTATE_ROWS
from tests.rows import Row
from tests.stats.grams import grams
from wspace.quant.formats import named


def rtn(
    leaves: list[np.ndarray], sides: Any, key: Any, bits: int, group: int | None = None, symmetric: bool = True
) -> np.ndarray:
    (w,) = leaves
    if w.ndim == 3:
        return np.stack([rtn([layer], sides, key, bits, group, symmetric) for layer in w])
    out = np.zeros_like(w)
    for start in range(0, w.shape[0], group or w.shape[0]):
        part = slice(start, start + (group or w.shape[0]))
        scale, zero = grid_of(w[part], bits, symmetric)
        out[part] = (code_of(w[part], scale[None], zero[None], bits) - zero[None]) * scale[None]
    return out


def nearest(leaves: list[np.ndarray], sides: Any, key: Any, grid: str, group: tuple[int, None]) -> np.ndarray:
    """Block by block, the nearest level of every weight, the largest level being the block's largest magnitude."""
    (w,) = leaves
    if w.ndim == 3:
        return np.stack([nearest([layer], sides, key, grid, group) for layer in w])
    levels, out = np.array(named(grid).levels), np.zeros_like(w)
    for i in range(0, w.shape[0], group[0]):
        part = slice(i, i + group[0])
        scale = np.max(np.abs(w[part])) / np.max(np.abs(levels)) or 1.0
        out[part] = levels[np.argmin(np.abs(w[part][..., None] / scale - levels), axis=-1)] * scale
    return out


def gptq(
    leaves: list[np.ndarray],
    sides: Any,
    key: Any,
    bits: int,
    group: int | None = None,
    damp: float = 0.01,
    symmetric: bool = True,
    act_order: bool = False,
) -> np.ndarray:
    """Frantar's algorithm with the inverse taken and every later row corrected after every row: no blocks."""
    (w,), gram = leaves, sides["gram"]
    if w.ndim == 3:
        layers = zip(w, gram, strict=True)
        return np.stack([gptq([x], {"gram": g}, key, bits, group, damp, symmetric, act_order) for x, g in layers])
    inputs = w.shape[0]
    group = group or inputs
    w, gram, out = w.copy(), gram.copy(), np.zeros_like(w)
    dead = np.diag(gram) == 0
    gram[dead, dead] = 1
    w[dead] = 0
    order = np.argsort(-np.diag(gram), kind="stable") if act_order else np.arange(inputs)
    grids = {g: grid_of(w[g * group : (g + 1) * group], bits, symmetric) for g in range(inputs // group)}
    inverse = np.linalg.inv(gram + damp * np.mean(np.diag(gram)) * np.eye(inputs))
    upper = np.linalg.cholesky(inverse[np.ix_(order, order)]).T
    for place, i in enumerate(order):
        if not act_order and i % group == 0:
            grids[i // group] = grid_of(w[i : i + group], bits, symmetric)
        scale, zero = grids[i // group]
        out[i] = (code_of(w[i], scale, zero, bits) - zero) * scale
        error = (w[i] - out[i]) / upper[place, place]
        for later in range(place + 1, inputs):
            w[order[later]] -= upper[place, later] * error
    return out


ROWS = [
    Row(
        "quant.rtn",
        ws.quant.rtn,
        rtn,
        settings={"bits": 4, "group": 2},
        matrices=True,
        families=("quantizer", "nearest"),
    ),
    Row(
        "quant.rtn(asymmetric)",
        ws.quant.rtn,
        rtn,
        settings={"bits": 3, "symmetric": False},
        matrices=True,
        families=("quantizer", "nearest"),
    ),
    Row(
        "quant.rtn(nf4, blocks)",
        ws.quant.rtn,
        nearest,
        settings={"grid": "nf4", "group": (2, None)},
        matrices=True,
        families=("quantizer",),
    ),
    Row(
        "quant.gptq",
        ws.quant.gptq,
        gptq,
        settings={"bits": 3, "group": 8, "damp": 0.02},
        numeric={"damp": 0.3},
        sides=grams,
        matrices=True,
        gathers=True,
        tolerance=1e-5,
    ),
    Row(
        "quant.gptq(act_order)",
        ws.quant.gptq,
        gptq,
        settings={"bits": 4, "symmetric": False, "act_order": True},
        numeric={"damp": 0.3},
        sides=grams,
        matrices=True,
        gathers=True,
        tolerance=1e-5,
    ),
    *SOLVER_ROWS,
    *LEARNED_ROWS,
    *QEP_ROWS,
    *training_rows.ROWS,
    *ROTATE_ROWS,
    *codebook_rows.ROWS,
]

OPTAX_ROWS = training_rows.OPTAX_ROWS
