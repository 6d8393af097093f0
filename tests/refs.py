"""Slow numpy truths that several rows share: written from the definitions, in float64, with sorts and loops."""

from __future__ import annotations

import numpy as np


def keep_largest(w: np.ndarray, keep: int) -> np.ndarray:
    """All but the `keep` largest magnitudes zero; of equal ones the first in row-major order stay (stable sort)."""
    flat = w.ravel()
    order = np.argsort(-np.abs(flat), kind="stable")
    out = np.zeros_like(flat)
    out[order[:keep]] = flat[order[:keep]]
    return out.reshape(w.shape)
