"""Deleted, a recipe of mergekit could run here and give other numbers than there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.rows import close
from wspace.merge import task_arithmetic, ties

BASE = [[0.1, 0.2, -0.3], [0.4, -0.5, 0.6]]
MODELS = (
    [[1.0, -2.0, 0.5], [3.0, 0.25, -1.5]],
    [[0.5, 1.0, -0.75], [2.0, -4.0, 1.25]],
    [[-1.0, 2.0, 1.5], [0.75, 0.5, -2.5]],
)
WEIGHTS = (1.0, 0.5, 0.25)

# printed by the functions of mergekit 0.1.4 on the same tensors
RUNS = [
    (
        ties(0.5, WEIGHTS, 0.7),
        [[0.1, -1.3399999142, 0.9599999785], [1.9866665602, -2.9500000477, -1.0099998713]],
    ),
    (
        ties((1 / 3, 0.5, 0.9), WEIGHTS, normalize=False),
        [[-0.1750000119, -2.0, 0.1499999762], [3.7999999523, -2.25, -0.1749999523]],
    ),
    (
        task_arithmetic(WEIGHTS, 0.7),
        [[0.6775000691, -0.7450001240, 0.4175000191], [2.8412499428, -1.0249999762, -1.1849997044]],
    ),
]


@pytest.mark.parametrize(("t", "want"), RUNS, ids=["ties", "ties, a density for each model", "task arithmetic"])
def test_the_numbers_of_mergekit(t: Any, want: Any) -> None:
    models = [{"w": np.array(w, np.float32)} for w in MODELS]
    close(t(*models, base={"w": np.array(BASE, np.float32)}), {"w": np.array(want)}, 1e-6)
