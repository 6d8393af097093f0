"""Rows of quantization in training and of random rounding, and their slow numpy truths."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

import wspace as ws
from tests.optax_rows import RATE, OptaxRow
from tests.rows import Leaves, Row

Arrays = list[np.ndarray]


def by_layer(truth: Any) -> Any:
    """A truth of one matrix, on stacks of them too."""

    def run(leaves: Arrays, sides: Any, key: Any, **settings: Any) -> np.ndarray:
        (w,) = leaves
        return np.stack([truth(x, **settings) for x in w]) if w.ndim == 3 else truth(w, **settings)

    return run


def rounded(w: np.ndarray, bits: int) -> np.ndarray:
    """Nearest of the integers, one scale an output."""
    scale = np.float32(np.abs(w).max(0) / (2 ** (bits - 1) - 1))
    scale = np.where(scale == 0, np.float32(1), scale)
    return np.clip(np.round(w.astype(np.float32) * (1 / scale)), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * scale


def statsq(w: np.ndarray, grid: str) -> np.ndarray:
    """OFQ's code."""
    n = 2 ** (int(grid[-1]) - 1)
    s = 2 * np.abs(w).mean(0)
    return s * (np.round(np.clip(w / s, -1, 1 - 1e-6) * n - 0.5) + 0.5) / n


def lsq(w: np.ndarray, bits: int, group: int) -> np.ndarray:
    """Every group of inputs on its own step, 2 mean|w| / sqrt(Qp)."""
    out, high = np.zeros_like(w), 2 ** (bits - 1) - 1
    for start in range(0, w.shape[0], group):
        part = w[start : start + group]
        s = 2 * np.abs(part).mean(0) / np.sqrt(high)
        out[start : start + group] = np.round(np.clip(part / s, -high - 1, high)) * s
    return out


def balanced(w: np.ndarray, bits: int, rounds: int) -> np.ndarray:
    """Column by column: nearest code, then the scale of least squares, in turns."""
    top, out = 2 ** (bits - 1), np.zeros_like(w)
    for j, column in enumerate(w.T):
        s = np.abs(column).max() / top or 1.0
        for _ in range(rounds):
            q = np.clip(np.round(column / s), -top, top)
            if q @ q > 0 and column @ q > 0:
                s = column @ q / (q @ q)
        out[:, j] = np.clip(np.round(column / s), -top, top) * s
    return out


def noise(leaves: Arrays, sides: Any, key: Any, rate: float, bits: int) -> np.ndarray:
    """The draws are jax's own: one for each output of each layer."""
    (w,) = leaves
    shape = (*w.shape[:-2], 1, w.shape[-1])
    chosen = np.asarray(jax.random.uniform(key, shape, np.float32)) < np.float32(rate)
    made = np.stack([rounded(x, bits) for x in w]) if w.ndim == 3 else rounded(w, bits)
    return np.where(chosen, made, w)


def stochastic(leaves: Arrays, sides: Any, key: Any, bits: int) -> np.ndarray:
    (w,) = leaves
    scale = np.abs(w).max(-2, keepdims=True) / (2 ** (bits - 1) - 1)
    scale = np.where(scale == 0, 1, scale).astype(np.float32)
    draws = np.asarray(jax.random.uniform(key, w.shape, np.float32), np.float32)
    steps = np.floor(w.astype(np.float32) * (1 / scale) + draws)
    return np.clip(steps, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * scale.astype(np.float64)


ROWS = [
    Row(
        "quant.fake_quant",
        ws.quant.fake_quant,
        by_layer(rounded),
        settings={"bits": 3},
        matrices=True,
    ),
    Row(
        "quant.fake_quant(statsq)",
        ws.quant.fake_quant,
        by_layer(statsq),
        settings={"grid": "statsq2"},
        matrices=True,
    ),
    Row("quant.lsq", ws.quant.lsq, by_layer(lsq), settings={"bits": 3, "group": 2}, matrices=True),
    Row(
        "quant.noise",
        ws.quant.noise,
        noise,
        settings={"rate": 0.5, "bits": 3},
        numeric={"rate": 0.8},
        matrices=True,
        random=True,
    ),
    Row("quant.stochastic", ws.quant.stochastic, stochastic, settings={"bits": 4}, matrices=True, random=True),
    Row(
        "quant.balanced",
        ws.quant.balanced,
        by_layer(balanced),
        settings={"bits": 2, "rounds": 4},
        matrices=True,
    ),
]

START, BOUNDARY = 3, 0.2


def guided(params: Leaves, grads: list[Leaves]) -> Leaves:
    """Gradient descent in which, from step START on, only matrices' entries next to a border of codes move."""
    for t, grad in enumerate(grads):
        for path, g in grad.items():
            w = params[path]
            free = np.ones(w.shape, bool)
            if t >= START and w.ndim > 1:
                s = 2 * np.abs(w).mean(-2, keepdims=True)
                place = 2 * np.clip(w / s, -1, 1 - 1e-6) - 0.5
                free = np.abs(place - np.floor(place) - 0.5) <= BOUNDARY
            params[path] = np.where(free, w - RATE * g, w)
    return params


OPTAX_ROWS = [
    OptaxRow("quant.confidence_guided", lambda: ws.quant.confidence_guided(2, boundary=BOUNDARY, start=START), guided)
]
