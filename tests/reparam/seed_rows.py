"""The row of tunable weights and its slow numpy truth."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.rows import Row
from wspace.reparam import tunable


def mixed(leaves: list[np.ndarray], sides: Any, key: Any, mix: Any = None) -> np.ndarray:
    shares = np.ones(len(leaves)) / len(leaves) if mix is None else np.asarray(mix)
    return np.tensordot(shares, np.stack(leaves), axes=1)


ROWS = [
    Row(
        "reparam.tunable",
        tunable,
        mixed,
        settings={"mix": (0.5, 0.3, 0.2)},
        numeric={"mix": (0.1, 0.8, 0.6)},
        trees=3,
        equal={"mix": (0.5, 0.3, 0.2)},
    )
]
