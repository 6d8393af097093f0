"""Rows of the merge room and their slow numpy truths."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

import wspace as ws
from tests import refs
from tests.rows import Row, like

Arrays = list[np.ndarray]


def base(trees: Any, rng: np.random.Generator) -> dict[str, Any]:
    """The common ancestor as a side tree."""
    return {"base": like(trees[0], rng)}


def weighted_sum(leaves: Arrays, sides: Any, key: Any, weights: Any = None, lam: float = 1.0) -> np.ndarray:
    return lam * np.tensordot(np.ones(len(leaves)) if weights is None else weights, np.stack(leaves), axes=1)


def task_arithmetic(leaves: Arrays, sides: Any, key: Any, weights: Any = None, lam: float = 1.0) -> np.ndarray:
    return sides["base"] + weighted_sum([x - sides["base"] for x in leaves], sides, key, weights, lam)


def elect(
    leaves: Arrays, sides: Any, key: Any, weights: Any = None, lam: float = 1.0, normalize: bool = True
) -> np.ndarray:
    shares = np.ones(len(leaves)) if weights is None else np.asarray(weights, np.float32)
    out = np.zeros_like(leaves[0])
    for i in np.ndindex(out.shape):
        votes = [w * d[i] for w, d in zip(shares, leaves, strict=True)]
        sign = np.sign(sum(votes))
        winners = [(v, w) for v, w in zip(votes, shares, strict=True) if v != 0 and np.sign(v) == sign]
        if winners:
            out[i] = lam * sum(v for v, _ in winners) / (sum(w for _, w in winners) if normalize else 1)
    return out


def ties(leaves: Arrays, sides: Any, key: Any, density: Any, **rest: Any) -> np.ndarray:
    kept = density if isinstance(density, tuple) else (density,) * len(leaves)
    deltas = [x - sides["base"] for x in leaves]
    trimmed = [refs.keep_largest(d, int(p * d.size)) for d, p in zip(deltas, kept, strict=True)]
    return sides["base"] + elect(trimmed, sides, key, **rest)


def drop(leaves: Arrays, sides: Any, key: Any, density: float, rescale: bool = True, tree: int = 0) -> np.ndarray:
    """The draws are jax's own, from the key that this leaf of this tree is promised; the rest is a loop."""
    (w,) = leaves
    mine = key if tree == 0 else jax.random.fold_in(key, 2**31 + tree)
    draws = np.asarray(jax.random.uniform(mine, w.shape, np.float32))
    out = np.zeros_like(w)
    for i in np.ndindex(w.shape):
        if draws[i] < np.float32(density):
            out[i] = w[i] / density if rescale else w[i]
    return out


def dare(
    leaves: Arrays, sides: Any, key: Any, density: Any, rescale: bool = True, consensus: Any = None, **rest: Any
) -> np.ndarray:
    kept = density if isinstance(density, tuple) else (density,) * len(leaves)
    deltas = [
        drop([x - sides["base"]], sides, key, p, rescale, tree=k)
        for k, (x, p) in enumerate(zip(leaves, kept, strict=True))
    ]
    return sides["base"] + (weighted_sum if consensus is None else elect)(deltas, sides, key, **rest)


WEIGHTS: dict[str, Any] = {"weights": (0.5, 1.0, 0.25), "lam": 0.8}
OTHERS: dict[str, Any] = {"weights": (1.0, 0.5, 0.75), "lam": 0.3}
SHARES: dict[str, Any] = {"weights": (0.5, 0.3, 0.2), "lam": 1.0}  # sum to 1: equal models come out as they are


def merge(name: str, truth: Any, trees: int = 3, **rest: Any) -> Row:
    factory = getattr(ws.merge, name.partition("(")[0])
    return Row(f"merge.{name}", factory, truth, trees=trees, **rest)


ROWS = [
    merge("weighted_sum", weighted_sum, settings=WEIGHTS, numeric=OTHERS, families=("symmetric",), equal=SHARES),
    merge(
        "task_arithmetic",
        task_arithmetic,
        settings=WEIGHTS,
        numeric=OTHERS,
        sides=base,
        families=("symmetric",),
        equal=SHARES,
    ),
    merge("elect", elect, settings=WEIGHTS, numeric=OTHERS, families=("symmetric",), equal={"lam": 1.0}),
    merge(
        "ties",
        ties,
        settings={"density": 0.4, **WEIGHTS},
        numeric={"density": 0.6, **OTHERS},
        sides=base,
        families=("symmetric",),
        equal={"density": 1.0, "lam": 1.0},
    ),
    merge(
        "ties(a density for each model, sum)",
        ties,
        settings={"density": (0.4, 0.2, 1.0), "normalize": False, **WEIGHTS},
        numeric={"density": (0.1, 0.9, 0.5), **OTHERS},
        sides=base,
        equal={"density": 1.0, **SHARES},
    ),
    merge("drop", drop, trees=1, settings={"density": 0.4}, numeric={"density": 0.7}, random=True),
    merge(
        "dare",
        dare,
        settings={"density": 0.4, **WEIGHTS},
        numeric={"density": 0.6, **OTHERS},
        sides=base,
        random=True,
        equal={"density": 1.0, **SHARES},
    ),
    merge(
        "dare(a density for each model, not rescaled)",
        dare,
        settings={"density": (0.4, 0.7, 0.2), "rescale": False, **WEIGHTS},
        numeric={"density": (0.9, 0.3, 0.5), **OTHERS},
        sides=base,
        random=True,
        equal={"density": 1.0, **SHARES},
    ),
    merge(
        "dare(ties)",
        dare,
        settings={"density": 0.4, "consensus": ws.merge.elect, **WEIGHTS},
        numeric={"density": 0.6, **OTHERS},
        sides=base,
        random=True,
        equal={"density": 1.0, "lam": 1.0},
    ),
]
