"""Rows of scale choices and layer solvers, and their slow numpy truths."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

import wspace as ws
from tests.quant.grids import decoded, grid_of
from tests.rows import Row
from tests.stats.grams import grams, statistics
from wspace.quant.clip import Search

Arrays = list[np.ndarray]


def per_layer(truth: Any) -> Any:
    """A truth of one matrix, layer by layer of a stack."""

    def run(leaves: Arrays, sides: Any, key: Any, **settings: Any) -> np.ndarray:
        (w,) = leaves
        if w.ndim == 2:
            return truth(w, sides, **settings)
        each = [{n: s[k] for n, s in sides.items() if s is not None} for k in range(len(w))]
        return np.stack([truth(x, s, **settings) for x, s in zip(w, each, strict=True)])

    return run


@per_layer
def searched(w: np.ndarray, sides: Any, bits: int, scale: Search, group: int = 16) -> np.ndarray:
    """Every ratio of every group of every output tried on its own."""
    out = np.zeros_like(w)
    for start in range(0, len(w), group):
        part = slice(start, start + group)
        weigh = np.diag(sides["gram"])[part] if scale.of == "input" else np.ones(group)
        for o in range(w.shape[1]):
            column = w[part, o : o + 1]
            tried = []
            for k in range(scale.steps):
                step, zero = grid_of(column * (1 - k * (1 - scale.least) / scale.steps), bits, True)
                made = decoded(column, step, zero, bits)
                tried.append((np.sum(weigh * np.abs(made - column)[:, 0] ** scale.power), k, made[:, 0]))
            out[part, o] = min(tried, key=lambda t: t[:2])[2]
    return out


def grids_of(w: np.ndarray, bits: int, group: int, symmetric: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero of every entry."""
    each = [grid_of(w[i : i + group], bits, symmetric) for i in range(0, len(w), group)]
    return tuple(np.repeat(np.stack([e[k] for e in each]), group, axis=0) for k in (0, 1))  # type: ignore[return-value]


def output_error(e: np.ndarray, gram: np.ndarray) -> float:
    return float(np.trace(e.T @ gram @ e))


@per_layer
def awq(w: np.ndarray, sides: Any, bits: int, group: int, symmetric: bool = False) -> np.ndarray:
    """All 20 ratios, by the whole output."""
    tried = []
    for k in range(20):
        s = np.maximum(sides["abs_mean"] ** (k / 20), 1e-4)
        s = (s / np.sqrt(s.max() * s.min()))[:, None]
        scaled = (w * s).astype(np.float32).astype(np.float64)
        q = decoded(scaled, *grids_of(scaled, bits, group, symmetric), bits) / s
        tried.append((output_error(q - w, sides["gram"]), k, q))
    return min(tried, key=lambda t: t[:2])[2]


@per_layer
def smoothquant(w: np.ndarray, sides: Any, alpha: float = 0.5) -> np.ndarray:
    s = np.array([a**alpha / max(abs(row)) ** (1 - alpha) for a, row in zip(sides["abs_max"], w, strict=True)])[:, None]
    return decoded(w * s, *grids_of(w * s, 8, len(w)), 8) / s


@per_layer
def owq(w: np.ndarray, sides: Any, bits: int, group: int, keep: int, damp: float = 0.01) -> np.ndarray:
    """The inverse taken, the weak inputs put last and left alone, every later row corrected after every row."""
    gram, inputs = sides["gram"], len(w)
    e = decoded(w, *grids_of(w, bits, group), bits) - w
    weak = set(np.argsort(-np.diag(gram) * np.sum(e**2, 1), kind="stable")[:keep])
    order = [i for i in range(inputs) if i not in weak] + sorted(weak)
    scale, zero = grids_of(np.where(np.isin(np.arange(inputs), list(weak))[:, None], 0, w), bits, group)
    inverse = np.linalg.inv(gram + damp * np.mean(np.diag(gram)) * np.eye(inputs))
    upper, out = np.linalg.cholesky(inverse[np.ix_(order, order)]).T, w.copy()
    for place, i in enumerate(order):
        now = out[i].copy()
        if i not in weak:
            out[i] = decoded(now, scale[i], zero[i], bits)
        for later in range(place + 1, inputs):
            out[order[later]] -= upper[place, later] * (now - out[i]) / upper[place, place]
    return out


@per_layer
def quantease(
    w: np.ndarray, sides: Any, bits: int, group: int, sweeps: int, outliers: float = 0.0, relax: bool = False
) -> np.ndarray:
    """Cyclic coordinate descent with the whole gradient computed anew for every input."""
    gram, q, count = sides["gram"], w.copy(), round(outliers * w.size)

    def largest(x: np.ndarray) -> np.ndarray:
        keep = np.argsort(-np.abs(x).ravel(), kind="stable")[:count]
        return np.where(np.isin(np.arange(x.size), keep).reshape(x.shape), x, 0)

    h = largest(w)
    q = q - h
    scale, zero = grids_of(w - h, bits, group)
    for k in range(sweeps):
        for i in range(len(w)):
            best = q[i] - gram[i] @ (q + h - w) / gram[i, i]
            free = relax and k % 3 == 1 and k != sweeps - 1
            q[i] = best if free else decoded(best, scale[i], zero[i], bits)
        if count:
            bound = np.linalg.norm(np.linalg.matrix_power(gram, 16)) ** (1 / 16)
            h = largest(h - gram @ (q + h - w) / bound)
    return q + h


CALIBRATED: dict[str, Any] = {"sides": grams, "matrices": True, "gathers": True, "tolerance": 1e-5}

ROWS = [
    Row(
        "quant.rtn(search)",
        ws.quant.rtn,
        searched,
        settings={"bits": 3, "scale": Search(9, 0.4137, 2.4, of="input")},
        sides=grams,
        matrices=True,
    ),
    Row(
        "quant.awq",
        ws.quant.awq,
        awq,
        settings={"bits": 3, "group": 8},
        **{**CALIBRATED, "sides": partial(statistics, names=("gram", "abs_mean"))},
    ),
    Row(
        "quant.smoothquant",
        ws.quant.smoothquant,
        smoothquant,
        settings={"alpha": 0.4},
        numeric={"alpha": 0.7},
        sides=partial(statistics, names=("abs_max",)),
        matrices=True,
        gathers=True,  # numbers for inputs, which the law lays as it lays outputs
    ),
    Row(
        "quant.owq", ws.quant.owq, owq, settings={"bits": 3, "group": 8, "keep": 3}, numeric={"damp": 0.3}, **CALIBRATED
    ),
    Row("quant.quantease", ws.quant.quantease, quantease, settings={"bits": 3, "group": 8, "sweeps": 3}, **CALIBRATED),
    Row(
        "quant.quantease(outliers)",
        ws.quant.quantease,
        quantease,
        settings={"bits": 3, "group": 8, "sweeps": 4, "outliers": 0.05, "relax": True},
        **CALIBRATED,
    ),
]
