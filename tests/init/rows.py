"""Rows of the init room and their slow numpy truths."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

import wspace as ws
from tests.rows import Row


def gram_schmidt(a: np.ndarray) -> np.ndarray:
    """Orthonormal columns spanning those of a, each with a positive share of its own: the Q of QR with R_ii > 0."""
    q = np.zeros_like(a)
    for j in range(a.shape[1]):
        v = a[:, j]
        for _ in range(2):  # once more, for rounding
            v = v - sum((q[:, i] * (q[:, i] @ v) for i in range(j)), np.zeros_like(v))
        q[:, j] = v / np.linalg.norm(v)
    return q


def orthogonal(leaves: list[np.ndarray], sides: Any, key: Any, gain: float = 1.0) -> np.ndarray:
    (w,) = leaves
    normal = np.asarray(jax.random.normal(key, w.shape), np.float64).reshape(-1, *w.shape[-2:])
    wide = w.shape[-2] < w.shape[-1]
    made = [gram_schmidt(x.T).T if wide else gram_schmidt(x) for x in normal]
    return gain * np.stack(made).reshape(w.shape)


ROWS = [
    Row(
        "init.orthogonal",
        ws.init.orthogonal,
        orthogonal,
        settings={"gain": 1.5},
        numeric={"gain": 0.5},
        matrices=True,
        random=True,
        tolerance=1e-5,
    ),
]
