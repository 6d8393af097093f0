"""Rows of scale choices and layer solvers, and their slow numpy truths."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

import wspace as ws
from tests.quant.grids import decoded, grid_of
from tests.rows import Row, like
from tests.stats.grams import activations, grams, statistics
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


@per_layer
def spqr(w: np.ndarray, sides: Any, bits: int, group: int, outliers: float, damp: float = 0.01) -> np.ndarray:
    """Every entry left out of its group on its own; then GPTQ without blocks, on scales of what is not kept."""
    gram, inputs, out = sides["gram"], len(w), w.copy()
    inverse = np.linalg.inv(gram + damp * np.mean(np.diag(gram)) * np.eye(inputs))
    upper = np.linalg.cholesky(inverse).T

    def cost(column: np.ndarray, rows: list[int]) -> float:
        scale, zero = grid_of(column[:, None], bits, False)
        away = decoded(column[:, None], scale, zero, bits)[:, 0] - column
        return float(np.sum(away**2 / np.diag(upper)[rows] ** 2))

    gain = np.zeros_like(w)
    for i, o in np.ndindex(*w.shape):
        rows = list(range(i // group * group, i // group * group + group))
        rest = [r for r in rows if r != i]
        gain[i, o] = cost(w[rows, o], rows) - cost(w[rest, o], rest)
    order = np.argsort(-np.maximum(gain, 0).ravel(), kind="stable")
    kept = np.isin(np.arange(w.size), order[: round(outliers * w.size)]).reshape(w.shape)
    for i in range(inputs):
        if i % group == 0:
            scale, zero = grid_of(np.where(kept, 0, out)[i : i + group], bits, False)
        now = out[i].copy()
        out[i] = np.where(kept[i], now, decoded(now, scale, zero, bits))
        for later in range(i + 1, inputs):
            out[later] -= upper[i, later] * (now - out[i]) / upper[i, i]
    return out


@per_layer
def hqq(w: np.ndarray, sides: Any, bits: int, group: int, p: float = 0.7, beta: float = 10.0) -> np.ndarray:
    """One group at a time; codes are found in float32, as it decides on the border."""
    out, top = np.zeros_like(w), 2**bits - 1
    for i, o in np.ndindex(len(w) // group, w.shape[1]):
        x = w[i * group : (i + 1) * group, o]
        scale = np.float32(x.max()) / np.float32(top) - np.float32(x.min()) / np.float32(top)
        low, b, best = x.min(), beta, (np.inf, x)
        for _ in range(20):
            steps = (x.astype(np.float32) - np.float32(low)) * (1 / scale)
            made = low + np.clip(np.round(steps), 0, top).astype(np.float64) * float(scale)
            best = min(best, (np.mean(np.abs(x - made) ** p), made), key=lambda t: t[0])
            e = x - made
            with np.errstate(divide="ignore"):
                e = np.sign(e) * np.maximum(np.abs(e) - np.abs(e) ** (p - 1) / b, 0)
            low, b = low + np.mean(x - e - made), b * 1.01
        out[i * group : (i + 1) * group, o] = best[1]
    return out


@per_layer
def adadim(w: np.ndarray, sides: Any, bits: int, group: int, symmetric: bool) -> np.ndarray:
    along = decoded(w, *grids_of(w, bits, group, symmetric), bits)
    across = decoded(w.T, *grids_of(w.T, bits, group, symmetric), bits).T
    return min((along, across), key=lambda q: output_error(q - w, sides["gram"]))


@per_layer
def lorc(w: np.ndarray, sides: Any, rank: int) -> np.ndarray:
    """The best correction of this rank, from the eigenvectors of e^T e."""
    levels = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    levels = np.concatenate([-levels[:0:-1], levels])
    scale = np.abs(w).max(0) / 6
    q = levels[np.argmin(np.abs((w / scale)[..., None] - levels), axis=-1)] * scale
    _, vectors = np.linalg.eigh((w - q).T @ (w - q))
    top = vectors[:, -rank:]
    return q + (w - q) @ top @ top.T


def highest(score: np.ndarray, count: int) -> np.ndarray:
    order = np.argsort(-np.abs(score).ravel(), kind="stable")[:count]
    return np.isin(np.arange(score.size), order).reshape(score.shape)


@per_layer
def dense_and_sparse(w: np.ndarray, sides: Any, share: float, then: Any) -> np.ndarray:
    """then: asymmetric rounding to 4 bits."""
    kept = highest(sides["score"], round(share * w.size))
    rest = np.where(kept, 0, w)
    return np.where(kept, w, decoded(rest, *grids_of(rest, 4, len(w), False), 4))


@per_layer
def super_weight(w: np.ndarray, sides: Any, keep: int, z: float) -> np.ndarray:
    out, sizes = w.copy(), [abs(x) for x in w.ravel()]
    mean = sum(sizes) / len(sizes)
    most = mean + z * (sum((x - mean) ** 2 for x in sizes) / len(sizes)) ** 0.5
    for o, column in enumerate(w.T):
        short = np.array([min(max(x, -most), most) for x in column])[:, None]
        out[:, o] = decoded(short, *grid_of(short, 4, True), 4)[:, 0]
    return np.where(highest(sides["score"], keep), w, out)


def scores(trees: Any, rng: np.random.Generator) -> dict[str, Any]:
    return {"score": like(trees[0], rng)}


@per_layer
def gptaq(w: np.ndarray, sides: Any, bits: int, group: int, strength: float = 0.25, damp: float = 0.01) -> np.ndarray:
    """GPTQ without blocks; each input also hands on what its own change left undone, projected on what is to come."""
    gram, inputs, out = sides["gram"], len(w), w.copy()
    inverse = np.linalg.inv(gram + damp * np.mean(np.diag(gram)) * np.eye(inputs))
    upper = np.linalg.cholesky(inverse).T
    residual = (sides["cross"].T - gram) @ upper.T
    hand_on = np.zeros_like(gram)
    for i in range(inputs):
        for k in range(i + 1, inputs):
            hand_on[i] += strength * residual[i, k] * upper[k]
    for i in range(inputs):
        if i % group == 0:
            scale, zero = grid_of(out[i : i + group], bits, True)
        now = out[i].copy()
        out[i] = decoded(now, scale, zero, bits)
        for later in range(i + 1, inputs):
            out[later] += hand_on[i, later] * now - upper[i, later] * (now - out[i]) / upper[i, i]
    return out


def pairs(trees: Any, rng: np.random.Generator) -> dict[str, Any]:
    """Gram matrices of changed inputs, and their products with the inputs as they were."""

    def one(w: Any) -> tuple[Any, Any]:
        made = []
        for _ in range(1 if w.ndim == 2 else w.shape[0]):
            x = activations(rng, 48, w.shape[-2])
            changed = x + 0.3 * rng.standard_normal(x.shape)
            made.append((changed.T @ changed / len(x), changed.T @ x / len(x)))
        return tuple(jnp.asarray(m[0] if w.ndim == 2 else np.stack(m), jnp.float32) for m in zip(*made, strict=True))

    found = {k: one(layer["kernel"]) for k, layer in trees[0].items() if isinstance(layer, dict)}
    return {name: {k: {"kernel": x[i]} for k, x in found.items()} for i, name in enumerate(("gram", "cross"))}


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
        settings={"bits": 3, "group": 2},
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
    Row(
        "quant.spqr",
        ws.quant.spqr,
        spqr,
        settings={"bits": 3, "group": 8, "outliers": 0.05},
        numeric={"damp": 0.3},
        **CALIBRATED,
    ),
    Row(
        "quant.hqq",
        ws.quant.hqq,
        hqq,
        settings={"bits": 3, "group": 2},
        numeric={"p": 0.5, "beta": 3.0},
        matrices=True,
        tolerance=1e-5,
    ),
    Row("quant.adadim", ws.quant.adadim, adadim, settings={"bits": 3, "group": 4, "symmetric": True}, **CALIBRATED),
    Row("quant.lorc", ws.quant.lorc, lorc, settings={"rank": 3}, matrices=True, gathers=True, tolerance=1e-5),
    Row(
        "quant.dense_and_sparse",
        ws.quant.dense_and_sparse,
        dense_and_sparse,
        settings={"share": 0.05, "then": ws.quant.rtn(4, symmetric=False)},
        sides=scores,
        matrices=True,
        gathers=True,
    ),
    Row(
        "quant.super_weight",
        ws.quant.super_weight,
        super_weight,
        settings={"keep": 2, "z": 0.8},
        numeric={"z": 1.3},
        sides=scores,
        matrices=True,
        gathers=True,
    ),
    Row(
        "quant.gptaq",
        ws.quant.gptaq,
        gptaq,
        settings={"bits": 3, "group": 8},
        numeric={"strength": 0.7, "damp": 0.3},
        **{**CALIBRATED, "sides": pairs},
    ),
]
