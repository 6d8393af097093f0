"""Rows of learned codebooks and their slow numpy truths."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

import wspace as ws
from tests.quant.learned_rows import error_of, learned, matrices, row
from tests.rows import Row
from wspace.quant.codebook import Codebook
from wspace.quant.grid import Block, fit


@matrices
def jlcm(
    w: np.ndarray, gram: np.ndarray, bits: int, steps: int, table_lr: float = 1e-3, mapping_lr: float = 1e-2
) -> np.ndarray:
    """From the k-means that codebook grids begin with (its own test has it), one codebook an output."""
    k = 2**bits
    grid, block = Codebook(f"kmeans{bits}", bits), Block(len(w), 1)
    table = np.asarray(fit(jax.numpy.asarray(w, np.float32), grid, block)["table"], np.float64)[0]  # [out, k]
    gap = (table.max(1) - table.min(1)) / (k - 1)

    def made(x: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        code = x["logits"].argmax(-1)
        return code, np.stack([x["table"][0][j][code[:, j]] for j in range(w.shape[1])], axis=1)

    def slope(x: dict[str, np.ndarray], t: float) -> tuple[float, dict[str, np.ndarray]]:
        code, value = made(x)
        g = 2 * gram @ (value - w) / unit
        by_table, by_logits = np.zeros_like(x["table"]), np.zeros_like(x["logits"])
        now = x["table"][0]
        width = (now.max(1) - now.min(1)) / (k - 1)
        for i in range(w.shape[0]):
            for j in range(w.shape[1]):
                by_table[0, j, code[i, j]] += g[i, j]
                away = (now[j] - value[i, j]) / width[j]
                by_logits[i, j] = g[i, j] * width[j] * away / (0.1 + np.abs(away) ** 2)
        return error_of(value, w, gram), {"table": by_table, "logits": by_logits}

    start = {"table": table[None], "logits": -np.abs(table[None] - w[..., None]) / gap[None, :, None]}
    unit = error_of(made(start)[1], w, gram) / w.size
    best = learned(
        start,
        slope,
        lambda x: error_of(made(x)[1], w, gram),
        {"table": table_lr, "logits": mapping_lr},
        steps,
    )
    return made(best)[1]


def additive(leaves: list[np.ndarray], sides: Any, key: Any, dim: int, size: int, sweeps: int) -> np.ndarray:
    """Lloyd's algorithm vector by vector, from the vectors that jax draws; one codebook."""
    (w,) = leaves
    if w.ndim == 3:
        keys = jax.random.split(key, (len(w),))
        return np.stack([additive([x], sides, k, dim, size, sweeps) for x, k in zip(w, keys, strict=True)])
    scale = np.sqrt((w**2).mean(0))
    scale = np.where(scale == 0, 1, scale)
    x = np.stack([(w / scale)[i : i + dim, j] for i in range(0, len(w), dim) for j in range(w.shape[1])])
    drawn = np.asarray(jax.random.choice(jax.random.fold_in(key, 0), len(x), (size,), replace=len(x) < size))
    book = x[drawn]
    for _ in range(sweeps):
        code = ((x[:, None] - book[None]) ** 2).sum(-1).argmin(1)
        book = np.stack([x[code == c].mean(0) if np.any(code == c) else book[c] for c in range(size)])
    code = ((x[:, None] - book[None]) ** 2).sum(-1).argmin(1)
    out, places = np.zeros_like(w), iter(book[code])
    for i in range(0, len(w), dim):
        for j in range(w.shape[1]):
            out[i : i + dim, j] = next(places)
    return out * scale


ROWS = [
    row(
        "quant.jlcm",
        ws.quant.jlcm,
        jlcm,
        {"bits": 2, "steps": 8, "table_lr": 0.02, "mapping_lr": 0.05},
        {"table_lr": 0.01, "mapping_lr": 0.1},
    ),
    Row(
        "quant.additive",
        ws.quant.additive,
        additive,
        settings={"dim": 2, "size": 4, "sweeps": 3},
        matrices=True,
        random=True,
        gathers=True,
        tolerance=1e-5,
    ),
]
