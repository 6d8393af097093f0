"""Merging, number by number."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np


def merge_many(
    leaves: Any,
    base: Any,
    weights: Any,
    lam: Any,
    consensus: str = "sum",
    normalize: bool = True,
    least: Any = None,
    density: Any = None,
    keys: Any = None,
) -> Any:
    shape, n = leaves[0].shape, len(leaves)
    weights, lam = np.asarray(weights, np.float64), float(lam)
    deltas = [np.asarray(x, np.float64) - np.asarray(base, np.float64) for x in leaves]
    if least is not None:
        for d, limit in zip(deltas, np.asarray(least), strict=True):
            d[np.abs(d.astype(np.float32)) < limit] = 0
    if keys is not None:
        for k, d in enumerate(deltas):
            d *= np.asarray(jax.random.uniform(keys[k], shape)) < np.asarray(density)[k]
            d /= float(density[k])
    merged = np.zeros(shape)
    for i in np.ndindex(shape):
        shares = [weights[k] * deltas[k][i] for k in range(n)]
        if consensus == "sum":
            merged[i] = sum(shares)
            continue
        agreeing = [k for k in range(n) if shares[k] * sum(shares) > 0]
        total = sum(weights[k] for k in agreeing) if normalize else 1.0
        merged[i] = sum(shares[k] for k in agreeing) / (total or 1.0)
    return np.asarray(base, np.float64) + lam * merged
