"""Gains, row by row in float64."""

from __future__ import annotations

from typing import Any

import numpy as np


def permute_gather(a: Any, b: Any, permutation: Any) -> Any:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    gain = np.zeros((a.shape[1], b.shape[1]))
    for k, place in enumerate(np.asarray(permutation)):
        gain += a[k][:, None] * b[int(place)][None, :]
    return gain
