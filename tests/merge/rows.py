"""Rows of the merge room and their slow numpy truths."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from scipy.special import softmax

import wspace as ws
from tests import refs
from tests.merge import closed_rows, seed_rows
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


def with_norm_of(kept: np.ndarray, w: np.ndarray) -> np.ndarray:
    return kept * np.sum(np.abs(w)) / np.sum(np.abs(kept)) if kept.any() else kept


def each(value: Any, leaves: Arrays) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,) * len(leaves)


def ties(leaves: Arrays, sides: Any, key: Any, density: Any, rescale: bool = False, **rest: Any) -> np.ndarray:
    deltas = [x - sides["base"] for x in leaves]
    counts = [max(1, int(p * d.size)) for d, p in zip(deltas, each(density, leaves), strict=True)]
    trimmed = [refs.keep_largest(d, count) for d, count in zip(deltas, counts, strict=True)]
    if rescale:
        trimmed = [with_norm_of(kept, d) for kept, d in zip(trimmed, deltas, strict=True)]
    return sides["base"] + elect(trimmed, sides, key, **rest)


def drop(leaves: Arrays, sides: Any, key: Any, density: Any, rescale: Any = True, tree: int = 0) -> np.ndarray:
    """The draws are jax's own, from the key that this leaf of this tree is promised; the rest is a loop.

    density: of all entries, or an array with one for each.
    """
    (w,) = leaves
    mine = key if tree == 0 else jax.random.fold_in(key, 2**31 + tree)
    draws = np.asarray(jax.random.uniform(mine, w.shape, np.float32))
    chance = np.broadcast_to(density, w.shape)
    out = np.zeros_like(w)
    for i in np.ndindex(w.shape):
        if draws[i] < np.float32(chance[i]):
            out[i] = w[i] / chance[i] if rescale is True else w[i]
    return with_norm_of(out, w) if rescale == "l1" else out


def dare(
    leaves: Arrays, sides: Any, key: Any, density: Any, rescale: Any = True, consensus: Any = None, **rest: Any
) -> np.ndarray:
    deltas = [
        drop([x - sides["base"]], sides, key, p, rescale, tree=k)
        for k, (x, p) in enumerate(zip(leaves, each(density, leaves), strict=True))
    ]
    return sides["base"] + (weighted_sum if consensus is None else elect)(deltas, sides, key, **rest)


def magprune(
    leaves: Arrays,
    sides: Any,
    key: Any,
    density: float,
    epsilon: float,
    rescale: Any = True,
    axis: int = -1,
    tree: int = 0,
) -> np.ndarray:
    (w,) = leaves
    if density == 1:
        return w
    along = axis if -w.ndim <= axis else -1
    ranks = np.apply_along_axis(lambda row: np.argsort(np.argsort(row, kind="stable")), along, np.abs(w))
    chance = density - epsilon + 2 * epsilon * ranks / (w.shape[along] - 1)
    return drop(leaves, sides, key, chance, rescale, tree)


def della(
    leaves: Arrays,
    sides: Any,
    key: Any,
    density: Any,
    epsilon: float,
    rescale: Any = True,
    consensus: Any = None,
    axis: int = -1,
    **rest: Any,
) -> np.ndarray:
    deltas = [
        magprune([x - sides["base"]], sides, key, p, epsilon, rescale, axis, tree=k)
        for k, (x, p) in enumerate(zip(leaves, each(density, leaves), strict=True))
    ]
    return sides["base"] + (elect if consensus is None else weighted_sum)(deltas, sides, key, **rest)


def crumbs(leaves: Arrays, sides: Any, key: Any, density: float, gamma: float, rescale: bool = False) -> np.ndarray:
    (w,) = leaves
    if density == 1:
        return w
    order = np.argsort(-np.abs(w.ravel()), kind="stable")
    stay, out = int(density * w.size), np.zeros(w.size)
    gone = min(int(gamma * w.size), w.size - stay)
    out[order[gone : gone + stay]] = w.ravel()[order[gone : gone + stay]]
    out = out.reshape(w.shape)
    return with_norm_of(out, w) if rescale else out


def breadcrumbs(
    leaves: Arrays,
    sides: Any,
    key: Any,
    density: Any,
    gamma: Any,
    rescale: bool = False,
    consensus: Any = None,
    **rest: Any,
) -> np.ndarray:
    wanted = zip(leaves, each(density, leaves), each(gamma, leaves), strict=True)
    deltas = [crumbs([x - sides["base"]], sides, key, p, g, rescale) for x, p, g in wanted]
    return sides["base"] + (weighted_sum if consensus is None else elect)(deltas, sides, key, **rest)


def sce(leaves: Arrays, sides: Any, key: Any, density: float, floor: float = 0.0) -> np.ndarray:
    deltas = [x - sides["base"] for x in leaves]
    if density < 1:
        spread = np.var(deltas, axis=0)
        chosen = refs.keep_largest(spread, int(density * np.count_nonzero(spread))) != 0
        deltas = [d * chosen for d in deltas]
    energies = np.array([np.mean(d**2) for d in deltas])
    even = energies.sum() < floor or not energies.any()
    shares = np.ones(len(deltas)) / len(deltas) if even else energies / energies.sum()
    out = sides["base"].copy()
    for i in np.ndindex(out.shape):
        sign = np.sign(sum(d[i] for d in deltas))
        winners = [(e * d[i], e) for e, d in zip(shares, deltas, strict=True) if d[i] * sign > 0]
        if winners:
            out[i] += sum(v for v, _ in winners) / max(sum(e for _, e in winners), floor)
    return out


def nearswap(leaves: Arrays, sides: Any, key: Any, t: float) -> np.ndarray:
    return sides["base"] + np.clip(leaves[0] - sides["base"], -t, t)


def arcee_fusion(leaves: Arrays, sides: Any, key: Any, spread: float = 1.5, axis: int = -1) -> np.ndarray:
    (w,), base = leaves, sides["base"]
    along = axis if -w.ndim <= axis else -1
    p, q = (softmax(x, axis=along) + 1e-8 for x in (w, base))
    scores = np.abs(w - base) * np.sum(p * np.log(p / q), axis=along, keepdims=True)
    q1, median, q3 = np.quantile(scores, [0.25, 0.5, 0.75], method="lower")
    return np.where(scores >= median + spread * (q3 - q1), w, base)


def ram(leaves: Arrays, sides: Any, key: Any, epsilon: float, r: float = 0.0, alpha: float = 0.0) -> np.ndarray:
    deltas = np.stack([x - sides["base"] for x in leaves])
    who = {i: [k for k, d in enumerate(deltas) if abs(d[i]) > epsilon] for i in np.ndindex(deltas[0].shape)}
    alone = [sum(set(w) == {k} for w in who.values()) for k in range(len(deltas))]
    shared = [sum(k in w and len(w) > 1 for w in who.values()) for k in range(len(deltas))]
    out = sides["base"].copy()
    for i, w in who.items():
        if len(w) == 1:
            out[i] += (1 + r * min(shared[w[0]] / alone[w[0]], alpha)) * deltas[w[0]][i]
        elif w:
            out[i] += np.mean([deltas[k][i] for k in w])
    return out


WEIGHTS: dict[str, Any] = {"weights": (0.5, 1.0, 0.25), "lam": 0.8}
OTHERS: dict[str, Any] = {"weights": (1.0, 0.5, 0.75), "lam": 0.3}
SHARES: dict[str, Any] = {"weights": (0.5, 0.3, 0.2), "lam": 1.0}  # sum to 1: equal models come out as they are


def merge(name: str, truth: Any, trees: int = 3, **rest: Any) -> Row:
    factory = getattr(ws.merge, name.partition("(")[0])
    return Row(f"merge.{name}", factory, truth, trees=trees, **rest)


ROWS = [
    *seed_rows.ROWS,
    *closed_rows.ROWS,
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
    merge(
        "crumbs",
        crumbs,
        trees=1,
        settings={"density": 0.4, "gamma": 0.1, "rescale": True},
        numeric={"density": 0.6, "gamma": 0.7},
    ),
    merge(
        "breadcrumbs",
        breadcrumbs,
        settings={"density": 0.5, "gamma": 0.2, **WEIGHTS},
        numeric={"density": 0.3, "gamma": 0.05, **OTHERS},
        sides=base,
        families=("symmetric",),
        equal={"density": 1.0, **SHARES},
    ),
    merge(
        "breadcrumbs(ties, its own for each model)",
        breadcrumbs,
        settings={"density": (0.5, 0.3, 0.9), "gamma": (0.1, 0.2, 0.3), "consensus": ws.merge.elect, **WEIGHTS},
        numeric={"density": (0.4, 0.7, 0.2), "gamma": (0.3, 0.0, 0.1), **OTHERS},
        sides=base,
        equal={"density": 1.0, "lam": 1.0},
    ),
    merge(
        "sce",
        sce,
        settings={"density": 0.4},
        numeric={"density": 0.7},
        sides=base,
        families=("symmetric",),
        equal={"density": 1.0},
    ),
    merge("sce(all, equal weights)", sce, settings={"density": 1.0, "floor": 100.0}, sides=base),
    merge("nearswap", nearswap, trees=1, settings={"t": 0.5}, numeric={"t": 1.5}, sides=base),
    merge("arcee_fusion", arcee_fusion, trees=1, numeric={"spread": 0.5}, sides=base),
    merge("arcee_fusion(inputs)", arcee_fusion, trees=1, settings={"axis": -2}, sides=base),
    merge(
        "ram",
        ram,
        settings={"epsilon": 1.0},
        numeric={"epsilon": 2.0},
        sides=base,
        families=("symmetric",),
        equal={"epsilon": 0.0},
    ),
    merge(
        "ramplus_tl",
        ram,
        settings={"r": 0.4, "alpha": 5.0, "epsilon": 1.0},
        numeric={"r": 0.8, "alpha": 0.5, "epsilon": 2.0},
        sides=base,
        families=("symmetric",),
        equal={"epsilon": 0.0},
    ),
    merge(
        "ties(rescaled)",
        ties,
        settings={"density": 0.4, "rescale": True, **WEIGHTS},
        numeric={"density": 0.6, **OTHERS},
        sides=base,
        equal={"density": 1.0, "lam": 1.0},
    ),
    merge(
        "dare(rescaled to the norm)",
        dare,
        settings={"density": 0.4, "rescale": "l1", **WEIGHTS},
        numeric={"density": 0.6, **OTHERS},
        sides=base,
        random=True,
        equal={"density": 1.0, **SHARES},
    ),
    merge(
        "magprune",
        magprune,
        trees=1,
        settings={"density": 0.4, "epsilon": 0.2},
        numeric={"density": 0.7, "epsilon": 0.25},
        random=True,
        gathers=True,
    ),
    merge(
        "della",
        della,
        settings={"density": 0.4, "epsilon": 0.2, "rescale": "l1", **WEIGHTS},
        numeric={"density": 0.6, "epsilon": 0.3, **OTHERS},
        sides=base,
        random=True,
        gathers=True,
        equal={"density": 1.0, "lam": 1.0},
    ),
    merge(
        "della(sum, inputs)",
        della,
        settings={
            "density": (0.4, 0.7, 0.6),
            "epsilon": 0.2,
            "consensus": ws.merge.weighted_sum,
            "axis": -2,
            **WEIGHTS,
        },
        numeric={"density": (0.6, 0.3, 0.5), "epsilon": 0.1, **OTHERS},
        sides=base,
        random=True,
        gathers=True,
        equal={"density": 1.0, **SHARES},
    ),
]
