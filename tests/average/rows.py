"""Rows of the average room and their slow numpy truths."""

from __future__ import annotations

from typing import Any

import numpy as np

import wspace as ws
from tests.optax_rows import OptaxRow, descend
from tests.rows import Leaves, Row


def uniform_soup(leaves: list[np.ndarray], sides: Any, key: Any, weights: Any = None) -> np.ndarray:
    return np.average(leaves, axis=0, weights=weights)


ROWS = [
    Row("average.uniform_soup", ws.average.uniform_soup, uniform_soup, trees=3, families=("symmetric",), equal={}),
    Row(
        "average.uniform_soup(weights)",
        ws.average.uniform_soup,
        uniform_soup,
        settings={"weights": (0.5, 3.0, 1.5)},
        numeric={"weights": (2.0, 0.25, 1.0)},
        trees=3,
        families=("symmetric",),
        equal={"weights": (0.5, 3.0, 1.5)},
    ),
]


def descended(params: Leaves, grads: list[Leaves]) -> Leaves:
    """Plain gradient descent: averaging changes nothing in the run."""
    for _ in descend(params, grads):
        pass
    return params


OPTAX_ROWS = [
    OptaxRow("average.ema", lambda: ws.average.ema(0.9), descended),
    OptaxRow("average.ema(debias)", lambda: ws.average.ema(0.9, debias=True), descended),
]
