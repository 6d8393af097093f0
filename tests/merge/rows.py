"""Rows of the merge room and their slow numpy truths."""

from __future__ import annotations

from typing import Any

import numpy as np

import wspace as ws
from tests import refs
from tests.rows import Row, like


def base(trees: Any, rng: np.random.Generator) -> dict[str, Any]:
    """The common ancestor as a side tree."""
    return {"base": like(trees[0], rng)}


def ties(
    leaves: list[np.ndarray], sides: Any, key: Any, density: float, weights: Any = None, lam: float = 1.0
) -> np.ndarray:
    shares = np.ones(len(leaves)) if weights is None else np.asarray(weights, np.float32)
    deltas = [refs.keep_largest(x - sides["base"], int(density * x.size)) for x in leaves]
    out = np.zeros_like(leaves[0])
    for i in np.ndindex(out.shape):
        votes = [w * d[i] for w, d in zip(shares, deltas, strict=True)]
        sign = np.sign(sum(votes))
        winners = [(v, w) for v, w in zip(votes, shares, strict=True) if v != 0 and np.sign(v) == sign]
        if winners:
            out[i] = lam * sum(v for v, _ in winners) / sum(w for _, w in winners)
    return sides["base"] + out


ROWS = [
    Row(
        "merge.ties",
        ws.merge.ties,
        ties,
        settings={"density": 0.4, "weights": (0.5, 1.0, 0.25), "lam": 0.8},
        numeric={"density": 0.6, "weights": (1.0, 0.5, 0.75), "lam": 0.3},
        trees=3,
        sides=base,
        families=("symmetric",),
        equal={"density": 1.0, "lam": 1.0},
    ),
]
