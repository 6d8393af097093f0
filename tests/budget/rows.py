"""Rows of the budget room."""

from __future__ import annotations

from typing import Any

import numpy as np

import wspace as ws
from tests.refs import keep_largest
from tests.rows import Row


def assigned(trees: list[dict[str, np.ndarray]], sides: Any, key: Any, choices: Any, make: Any) -> Any:
    """Each leaf that has a sparsity loses that fraction; the bias stays."""
    return {
        path: keep_largest(w, w.size - round(choices[path] * w.size)) if path in choices else w
        for path, w in trees[0].items()
    }


ROWS = [
    Row(
        "budget.assign",
        ws.budget.assign,
        assigned,
        settings={"choices": {"dense/kernel": 0.25, "layers/kernel": 0.25}, "make": ws.prune.magnitude},
        whole=True,
    )
]
