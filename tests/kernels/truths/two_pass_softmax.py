"""Softmax, row by row in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def two_pass_softmax(x: Any) -> Any:
    x = np.asarray(x, np.float64)
    y = np.zeros_like(x)
    for row in np.ndindex(x.shape[:-1]):
        most = max(float(v) for v in x[row])
        powers = [math.exp(float(v) - most) for v in x[row]]
        total = math.fsum(powers)
        y[row] = [p / total for p in powers]
    return y
