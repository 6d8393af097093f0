"""Rows of the prune room and their slow numpy truths."""

from __future__ import annotations

from typing import Any

import numpy as np

import wspace as ws
from tests import refs
from tests.rows import Row
from tests.stats.grams import grams


def magnitude(leaves: list[np.ndarray], sides: Any, key: Any, sparsity: float) -> np.ndarray:
    (w,) = leaves
    return refs.keep_largest(w, w.size - round(sparsity * w.size))


def global_magnitude(
    trees: list[dict[str, np.ndarray]], sides: Any, key: Any, sparsity: float, scope: str
) -> dict[str, np.ndarray]:
    """All leaves one after another, in the order of their paths, ranked as one vector."""
    (tree,) = trees
    paths = sorted(tree)
    every = np.concatenate([tree[p].ravel() for p in paths])
    kept = refs.keep_largest(every, every.size - round(sparsity * every.size))
    ends = np.cumsum([tree[p].size for p in paths])
    return {p: part.reshape(tree[p].shape) for p, part in zip(paths, np.split(kept, ends[:-1]), strict=True)}


def keep_of_every(w: np.ndarray, score: np.ndarray, n: int, m: int) -> np.ndarray:
    """The n best of every m consecutive inputs of `[..., in, out]`, by a stable sort of each; the others zero."""
    out = np.zeros_like(w)
    columns = np.moveaxis(w, -2, -1)  # the same numbers as `[..., out, in]`
    scores, kept = np.moveaxis(score, -2, -1), np.moveaxis(out, -2, -1)
    for column in np.ndindex(columns.shape[:-1]):
        for start in range(0, columns.shape[-1], m):
            best = start + np.argsort(-scores[column][start : start + m], kind="stable")[:n]
            kept[column][best] = columns[column][best]
    return out


def nm(leaves: list[np.ndarray], sides: Any, key: Any, n: int, m: int) -> np.ndarray:
    return keep_of_every(leaves[0], np.abs(leaves[0]), n, m)


def wanda(
    leaves: list[np.ndarray],
    sides: Any,
    key: Any,
    sparsity: float | None = None,
    n: int = 0,
    m: int = 0,
) -> np.ndarray:
    (w,) = leaves
    score = np.abs(w) * np.sqrt(np.diagonal(sides["gram"], axis1=-2, axis2=-1))[..., None]
    if sparsity is None:
        return keep_of_every(w, score, n, m)
    inputs = w.shape[-2]
    keep = inputs - round(sparsity * inputs)
    return keep_of_every(w, score, keep, inputs)


ROWS = [
    Row(
        "prune.magnitude",
        ws.prune.magnitude,
        magnitude,
        settings={"sparsity": 0.3},
        numeric={"sparsity": 0.7},
        families=("pruner",),
    ),
    Row(
        "prune.magnitude(global)",
        ws.prune.magnitude,
        global_magnitude,
        settings={"sparsity": 0.3, "scope": "global"},
        numeric={"sparsity": 0.7},
        whole=True,
        families=("pruner",),
    ),
    Row(
        "prune.nm",
        ws.prune.nm,
        nm,
        settings={"n": 1, "m": 2},
        matrices=True,
        families=("pruner",),
    ),
    Row(
        "prune.wanda",
        ws.prune.wanda,
        wanda,
        settings={"sparsity": 0.25},
        numeric={"sparsity": 0.6},
        sides=grams,
        matrices=True,
        families=("pruner",),
    ),
    Row(
        "prune.wanda(n:m)",
        ws.prune.wanda,
        wanda,
        settings={"n": 1, "m": 2},
        sides=grams,
        matrices=True,
        families=("pruner",),
    ),
]
