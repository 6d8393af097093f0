"""The row of AdamR and the slow numpy truth of its run."""

from __future__ import annotations

from typing import Any

import numpy as np

import wspace as ws
from tests.optax_rows import RATE, OptaxRow
from tests.rows import Leaves


def pulled(norm: str) -> Any:
    """AdamR after `optax.sgd(RATE)`, which hands it -RATE times the gradient."""

    def truth(params: Leaves, grads: list[Leaves]) -> Leaves:
        reference = {p: w.copy() for p, w in params.items()}
        m = {p: np.zeros_like(w) for p, w in params.items()}
        v = {p: np.zeros_like(w) for p, w in params.items()}
        for t, grad in enumerate(grads, 1):
            for p in params:
                g = -RATE * grad[p]
                m[p], v[p] = 0.9 * m[p] + 0.1 * g, 0.999 * v[p] + 0.001 * g**2
                first, second = m[p] / (1 - 0.9**t), v[p] / (1 - 0.999**t)
                away = params[p] - reference[p]
                pull = away if norm == "l2" else np.sign(away)
                step = first / (np.sqrt(second) + 1e-8) + 0.5 * pull / (np.sqrt(second.mean()) + 1e-8)
                params[p] = params[p] - 0.05 * step
        return params

    return truth


OPTAX_ROWS = [
    OptaxRow("optim.adam_r", lambda: ws.optim.adam_r(0.05, decay=0.5), pulled("l2")),
    OptaxRow("optim.adam_r(l1)", lambda: ws.optim.adam_r(0.05, decay=0.5, norm="l1"), pulled("l1")),
]
