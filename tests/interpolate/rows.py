"""Rows of the interpolate room and their slow numpy truths."""

from __future__ import annotations

from typing import Any

import numpy as np

import wspace as ws
from tests.interpolate import curve_rows, seed_rows
from tests.rows import Leaves, Row


def lerp(leaves: list[np.ndarray], sides: Any, key: Any, t: float) -> np.ndarray:
    a, b = leaves
    return a + t * (b - a)


def shares(a: np.ndarray, b: np.ndarray, t: float) -> tuple[float, float]:
    """The direction of a, turned by t of the angle to b, as shares of the two directions: by Gram-Schmidt."""
    u, v = a.ravel() / np.sqrt(np.sum(a * a)), b.ravel() / np.sqrt(np.sum(b * b))
    cos = u @ v
    across = v - cos * u
    sin = np.sqrt(across @ across)
    angle = np.arctan2(sin, cos)
    on_v = np.sin(t * angle) / sin
    return np.cos(t * angle) - on_v * cos, on_v


def slerp(leaves: list[np.ndarray], sides: Any, key: Any, t: float) -> np.ndarray:
    a, b = leaves
    on_a, on_b = shares(a, b, t)
    return on_a * a + on_b * b


def slerp_tree(trees: list[Leaves], sides: Any, key: Any, t: float, scope: str) -> Leaves:
    a, b = trees
    whole = [np.concatenate([tree[path].ravel() for path in a]) for tree in trees]
    on_a, on_b = shares(*whole, t)
    return {path: on_a * a[path] + on_b * b[path] for path in a}


def nuslerp(leaves: list[np.ndarray], sides: Any, key: Any, weights: Any, axis: int | None = None) -> np.ndarray:
    a = leaves[0]
    t = weights[1] / sum(weights)
    if axis is None or a.ndim == 0:
        return slerp(leaves, sides, key, t)
    each = [np.moveaxis(x, axis, -1).reshape(-1, a.shape[axis]) for x in leaves]
    out = []
    for u, v in zip(*each, strict=True):
        on_u, on_v = shares(u, v, t)
        out.append(on_u * u + on_v * v)
    return np.moveaxis(np.reshape(out, np.moveaxis(a, axis, -1).shape), -1, axis)


def multislerp(
    leaves: list[np.ndarray], sides: Any, key: Any, weights: Any, normalize: bool = True, eps: float = 1e-8
) -> np.ndarray:
    """On flat vectors: the weighted mean direction m, the mean offset across m, and the great circle through both."""
    shares = np.asarray(weights) / (sum(weights) if normalize else 1)
    norms = np.array([np.linalg.norm(x) for x in leaves])
    units = np.stack([x.ravel() / (n + eps) for x, n in zip(leaves, norms, strict=True)])
    mean = shares @ units
    m = mean / np.linalg.norm(mean)
    across = shares @ (units - np.outer(units @ m, m))
    turn = np.linalg.norm(across) + eps
    unit = np.cos(turn) * m + np.sinc(turn / np.pi) * across
    return ((shares @ norms) * unit).reshape(leaves[0].shape)


ROWS = [
    *seed_rows.ROWS,
    *curve_rows.ROWS,
    Row(
        "interpolate.lerp",
        ws.interpolate.lerp,
        lerp,
        settings={"t": 0.3},
        numeric={"t": 0.8},
        trees=2,
        equal={"t": 0.3},
    ),
    Row(
        "interpolate.slerp",
        ws.interpolate.slerp,
        slerp,
        settings={"t": 0.3},
        numeric={"t": 0.8},
        trees=2,
        equal={"t": 0.3},
    ),
    Row(
        "interpolate.slerp(tree)",
        ws.interpolate.slerp,
        slerp_tree,
        settings={"t": 0.3, "scope": "tree"},
        numeric={"t": 0.8},
        trees=2,
        whole=True,
        equal={"t": 0.3},
    ),
    Row(
        "interpolate.nuslerp",
        ws.interpolate.nuslerp,
        nuslerp,
        settings={"weights": (1.0, 0.4)},
        numeric={"weights": (0.2, 0.5)},
        trees=2,
        families=("symmetric",),
        equal={},
    ),
    Row(
        "interpolate.nuslerp(rows)",
        ws.interpolate.nuslerp,
        nuslerp,
        settings={"weights": (1.0, 0.4), "axis": -1},
        numeric={"weights": (0.2, 0.5)},
        trees=2,
        equal={},
    ),
    Row(
        "interpolate.multislerp",
        ws.interpolate.multislerp,
        multislerp,
        settings={"weights": (1.0, 0.4, 0.7)},
        numeric={"weights": (0.2, 0.5, 0.9), "eps": 0.02},
        trees=3,
        families=("symmetric",),
        equal={},
    ),
    Row(
        "interpolate.multislerp(weights as they are)",
        ws.interpolate.multislerp,
        multislerp,
        settings={"weights": (1.0, 0.4, 0.7), "normalize": False},
        numeric={"weights": (0.2, 0.5, 0.9)},
        trees=3,
    ),
]
