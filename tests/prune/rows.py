"""Rows of the prune room and their slow numpy truths."""

from __future__ import annotations

from typing import Any

import numpy as np

import wspace as ws
from tests import refs
from tests.rows import Row


def magnitude(leaves: list[np.ndarray], sides: Any, key: Any, sparsity: float) -> np.ndarray:
    (w,) = leaves
    return refs.keep_largest(w, w.size - round(sparsity * w.size))


ROWS = [
    Row(
        "prune.magnitude",
        ws.prune.magnitude,
        magnitude,
        settings={"sparsity": 0.3},
        numeric={"sparsity": 0.7},
        families=("pruner",),
    ),
]
