"""Rows of curves and their slow numpy truths."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

import wspace as ws
from tests.rows import Row


def bezier(leaves: list[np.ndarray], sides: Any, key: Any, t: float) -> np.ndarray:
    """By de Casteljau: points between points, until one is left."""
    while len(leaves) > 1:
        leaves = [a + t * (b - a) for a, b in pairwise(leaves)]
    return leaves[0]


def polygon(leaves: list[np.ndarray], sides: Any, key: Any, t: float) -> np.ndarray:
    at = np.linspace(0, 1, len(leaves))
    flat = np.stack([x.ravel() for x in leaves], axis=1)
    return np.array([np.interp(t, at, entry) for entry in flat]).reshape(leaves[0].shape)


ROWS = [
    Row(f"interpolate.{truth.__name__}", make, truth, {"t": 0.3}, {"t": 0.8}, trees=4, equal={"t": 0.3})
    for make, truth in ((ws.interpolate.bezier, bezier), (ws.interpolate.polygon, polygon))
]
