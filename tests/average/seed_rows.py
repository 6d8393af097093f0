"""Rows of averages along a run: in an optax chain they must change nothing."""

from __future__ import annotations

import wspace as ws
from tests.optax_rows import OptaxRow, descend
from tests.rows import Leaves


def descended(params: Leaves, grads: list[Leaves]) -> Leaves:
    """Plain gradient descent."""
    for _ in descend(params, grads):
        pass
    return params


OPTAX_ROWS = [
    OptaxRow("average.lawa", lambda: ws.average.lawa(k=3, every=2), descended),
    OptaxRow("average.valley_average", lambda: ws.average.valley_average(converge=2), descended),
    OptaxRow("average.tail_average", lambda: ws.average.tail_average(start=3, every=2), descended),
]
