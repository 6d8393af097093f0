"""The recurrences, token by token in float64."""

from __future__ import annotations

from typing import Any

import numpy as np


def delta_product(
    q: Any, k: Any, v: Any, beta: Any, log_gate: Any = None, initial_state: Any = None, chunk: int = 0
) -> Any:
    q, k, v, beta = (np.asarray(x, np.float64) for x in (q, k, v, beta))
    heads, length, steps, _ = k.shape
    outs, states = np.zeros((heads, length, v.shape[-1])), np.zeros((heads, k.shape[-1], v.shape[-1]))
    if initial_state is not None:
        states = np.array(initial_state, np.float64)
    for h in range(heads):
        for t in range(length):
            if log_gate is not None:
                states[h] *= np.exp(float(log_gate[h, t]))
            for j in range(steps):
                key = k[h, t, j]
                error = v[h, t, j] - states[h].T @ key
                states[h] = states[h] + beta[h, t, j] * np.outer(key, error)
            outs[h, t] = states[h].T @ q[h, t]
    return outs, states


def delta_rule(q: Any, k: Any, v: Any, beta: Any, **rest: Any) -> Any:
    return delta_product(q, k[:, :, None], v[:, :, None], beta[:, :, None], **rest)
