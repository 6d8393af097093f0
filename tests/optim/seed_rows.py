"""Rows of AdamR and SGLD, and the slow numpy truths of their runs."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

import wspace as ws
from tests.optax_rows import RATE, OptaxRow
from tests.rows import Leaves
from wspace.core.transform import leaf_key


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


def sampled(params: Leaves, grads: list[Leaves]) -> Leaves:
    """The draws are jax's own, from the key that this leaf is promised at this step."""
    for t, grad in enumerate(grads):
        key = jax.random.fold_in(jax.random.key(3), t)
        for p in params:
            noise = np.asarray(jax.random.normal(leaf_key(key, p), params[p].shape, np.float32), np.float64)
            params[p] = params[p] - 0.02 * (-RATE * grad[p]) + np.sqrt(0.04 * 0.5) * noise
    return params


OPTAX_ROWS = [
    OptaxRow("optim.adam_r", lambda: ws.optim.adam_r(0.05, decay=0.5), pulled("l2")),
    OptaxRow("optim.sgld", lambda: ws.optim.sgld(0.04, 0.5, key=jax.random.key(3)), sampled),
    OptaxRow("optim.adam_r(l1)", lambda: ws.optim.adam_r(0.05, decay=0.5, norm="l1"), pulled("l1")),
]
