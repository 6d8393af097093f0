"""Integer grids in numpy, for the slow truths of solvers."""

from __future__ import annotations

import numpy as np


def code_of(x: np.ndarray, scale: np.ndarray, zero: np.ndarray, bits: int) -> np.ndarray:
    """Nearest codes. Scales are float32 and so is the product with their reciprocal: it decides on the border."""
    steps = x.astype(np.float32) * (1 / scale.astype(np.float32)) + zero.astype(np.float32)
    return np.clip(np.round(steps), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def decoded(x: np.ndarray, scale: np.ndarray, zero: np.ndarray, bits: int) -> np.ndarray:
    """x on the grid."""
    return (code_of(x, scale, zero, bits) - zero) * scale


def grid_of(x: np.ndarray, bits: int, symmetric: bool) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero of one group of inputs `[group, out]`, one output after another."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    scales, zeros = [], []
    for column in x.T:
        top, bottom = max(0.0, *column), min(0.0, *column)
        size = max(top, -bottom) / high if symmetric else (top - bottom) / (high - low)
        scale = float(np.float32(size)) or 1.0
        scales.append(scale)
        zeros.append(0.0 if symmetric else np.round(-bottom / scale) + low)
    return np.array(scales), np.array(zeros)
