"""Three layers with correlated inputs, made by numpy alone: the published codes and ours solve the same ones."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

INPUTS, OUTPUTS, TOKENS = 256, 64, 2048


class Problem(NamedTuple):
    """w float32 [in, out]; x float32 [tokens, in], to calibrate on and to measure on."""

    w: np.ndarray
    x: np.ndarray


def problem(kind: int) -> Problem:
    """0: inputs that vary in few directions. 1: neighbours alike, a few 20 times as large. 2: what a ReLU lets out."""
    rng = np.random.default_rng(100 + kind)
    noise = rng.standard_normal((TOKENS, INPUTS))
    if kind == 0:
        x = rng.standard_normal((TOKENS, 24)) @ rng.standard_normal((24, INPUTS)) + noise
    elif kind == 1:
        x = np.cumsum(noise, axis=1) * 0.2 + 0.3 * noise
        x[:, rng.permutation(INPUTS)[:5]] *= 20
    else:
        x = np.maximum(noise @ rng.standard_normal((INPUTS, INPUTS)) / 16 + 0.3, 0)
    w = rng.standard_normal((INPUTS, OUTPUTS)) * np.exp(0.5 * rng.standard_normal((INPUTS, 1)))
    return Problem(w.astype(np.float32), x.astype(np.float32))


def output_error(p: Problem, w: np.ndarray) -> float:
    """How much of the output's square w misses, in float64."""
    x, was = p.x.astype(np.float64), p.w.astype(np.float64)
    return float(np.sum((x @ (w - was)) ** 2) / np.sum((x @ was) ** 2))
