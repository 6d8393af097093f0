"""Rows of the reparam room: at the start each one stands for the weight it was made from."""

from __future__ import annotations

from typing import Any

import numpy as np

import wspace as ws
from tests.reparam import adapter_rows, seed_rows
from tests.rows import Row


def itself(leaves: list[np.ndarray], sides: Any, key: Any, **settings: Any) -> np.ndarray:
    return leaves[0]


ROWS = [
    *seed_rows.ROWS,
    *adapter_rows.ROWS,
    Row(
        "reparam.lora",
        ws.reparam.lora,
        itself,
        settings={"rank": 3, "alpha": 6.0},
        numeric={"alpha": 2.0},
        matrices=True,
        random=True,
        families=("reparam",),
        tolerance=0,
        bf16=0,
    ),
    Row("reparam.weight_norm", ws.reparam.weight_norm, itself, matrices=True, families=("reparam",), bf16=0),
]
