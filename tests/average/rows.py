"""Rows of the average room and their slow numpy truths."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize

import wspace as ws
from tests.average import seed_rows
from tests.optax_rows import OptaxRow, descend
from tests.rows import Leaves, Row, like


def uniform_soup(leaves: list[np.ndarray], sides: Any, key: Any, weights: Any = None) -> np.ndarray:
    return np.average(leaves, axis=0, weights=weights)


def model_stock(
    leaves: list[np.ndarray], sides: Any, key: Any, axis: int | None = None, floor: float = 0.0
) -> np.ndarray:
    base = sides["base"]
    if axis is not None and base.ndim > 1:
        rows = np.moveaxis(np.stack([*leaves, base]), axis, -1)
        flat = rows.reshape(len(rows), -1, rows.shape[-1])
        out = [model_stock(list(x[:-1]), {"base": x[-1]}, key, floor=floor) for x in np.moveaxis(flat, 1, 0)]
        return np.moveaxis(np.reshape(out, rows.shape[1:]), -1, axis)
    n, deltas = len(leaves), np.stack([(x - base).ravel() for x in leaves])
    cosines = np.corrcoef(np.hstack([deltas, -deltas]))  # with its mirror image every vector has mean zero
    sizes = np.outer(*[np.linalg.norm(deltas, axis=1)] * 2)
    cosines = cosines * np.minimum(1, sizes / max(floor, 1e-30))
    c = (np.sum(cosines) - np.trace(cosines)) / (n * (n - 1))
    t = n * c / (1 + (n - 1) * c)
    return t * np.mean(leaves, axis=0) + (1 - t) * base


def karcher(leaves: list[np.ndarray], sides: Any, key: Any, weights: Any = None, **stop: Any) -> np.ndarray:
    """The least sum of squared angles, found by a general minimizer over combinations of the directions."""
    shares = np.ones(len(leaves)) / len(leaves) if weights is None else np.asarray(weights) / np.sum(weights)
    norms = np.array([np.linalg.norm(x) for x in leaves])
    gram = np.array([[np.sum(x * y) for y in leaves] for x in leaves]) / np.outer(norms, norms)

    def spread(c: np.ndarray) -> float:
        return float(shares @ np.arccos(np.clip(gram @ c / np.sqrt(c @ gram @ c), -1, 1)) ** 2)

    c = minimize(spread, shares, method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-16, "maxiter": 4000}).x
    u = sum(ck * x / n for ck, x, n in zip(c, leaves, norms, strict=True))
    return (shares @ norms) * u / np.linalg.norm(u)


def base(trees: Any, rng: np.random.Generator) -> dict[str, Any]:
    return {"base": like(trees[0], rng)}


ROWS = [
    Row("average.uniform_soup", ws.average.uniform_soup, uniform_soup, trees=3, families=("symmetric",), equal={}),
    Row(
        "average.uniform_soup(weights)",
        ws.average.uniform_soup,
        uniform_soup,
        settings={"weights": (0.5, 3.0, 1.5)},
        numeric={"weights": (2.0, 0.25, 1.0)},
        trees=3,
        families=("symmetric",),
        equal={"weights": (0.5, 3.0, 1.5)},
    ),
    Row(
        "average.model_stock",
        ws.average.model_stock,
        model_stock,
        numeric={"floor": 300.0},
        trees=3,
        sides=base,
        families=("symmetric",),
        equal={},
    ),
    Row(
        "average.model_stock(filters)",
        ws.average.model_stock,
        model_stock,
        settings={"axis": -1},
        trees=3,
        sides=base,
        equal={},
    ),
    Row(
        "average.karcher",
        ws.average.karcher,
        karcher,
        settings={"max_iter": 60, "tol": 1e-6},
        trees=3,
        families=("symmetric",),
        equal={},
    ),
    Row(
        "average.karcher(weights)",
        ws.average.karcher,
        karcher,
        settings={"weights": (0.5, 1.0, 0.7), "max_iter": 60, "tol": 1e-6},
        numeric={"weights": (1.0, 0.4, 0.7)},
        trees=3,
        families=("symmetric",),
        equal={},
    ),
]


def descended(params: Leaves, grads: list[Leaves]) -> Leaves:
    """Plain gradient descent: averaging changes nothing in the run."""
    for _ in descend(params, grads):
        pass
    return params


OPTAX_ROWS = [
    *seed_rows.OPTAX_ROWS,
    OptaxRow("average.ema", lambda: ws.average.ema(0.9), descended),
    OptaxRow("average.ema(debias)", lambda: ws.average.ema(0.9, debias=True), descended),
]
