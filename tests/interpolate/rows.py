"""Rows of the interpolate room and their slow numpy truths."""

from __future__ import annotations

from typing import Any

import numpy as np

import wspace as ws
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


ROWS = [
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
]
