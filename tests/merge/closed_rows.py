"""Rows of the closed-form merges (by curvature, by magnitude, by singular vectors) and their slow numpy truths."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import expm, orthogonal_procrustes, polar

import wspace as ws
from tests.merge.seed_rows import base, positive
from tests.rows import Row, like
from tests.stats.grams import grams

Arrays = list[np.ndarray]


def fishers(trees: Any, rng: np.random.Generator) -> dict[str, Any]:
    return {"fisher": tuple(positive(t, rng) for t in trees)}


def fisher_mean(models: Arrays, precisions: Arrays, weights: Any) -> np.ndarray:
    """The mode of a product of Gaussians, entry by entry."""
    out = np.zeros_like(models[0])
    for i in np.ndindex(out.shape):
        pull = [w * f[i] for w, f in zip(weights, precisions, strict=True)]
        out[i] = sum(p * m[i] for p, m in zip(pull, models, strict=True)) / sum(pull)
    return out


def fisher(leaves: Arrays, sides: Any, key: Any, weights: Any, floor: float = 1e-6) -> np.ndarray:
    return fisher_mean(leaves, [np.where(f < floor, floor, f) for f in sides["fisher"]], weights)


def normalized_fisher(trees: Any, sides: Any, key: Any, weights: Any, normalize: bool) -> dict[str, np.ndarray]:
    of = sides["fisher"]
    norms = [np.sqrt(sum(np.sum(of[p][k] ** 2) for p in trees[0])) for k in range(len(trees))]
    scaled = [w / norm for w, norm in zip(weights, norms, strict=True)]
    return {p: fisher_mean([t[p] for t in trees], of[p], scaled) for p in trees[0]}


def magmax(leaves: Arrays, sides: Any, key: Any, lam: float) -> np.ndarray:
    deltas = [x - sides["base"] for x in leaves]
    out = sides["base"].copy()
    for i in np.ndindex(out.shape):
        out[i] += lam * max((d[i] for d in deltas), key=abs)
    return out


def median(points: Arrays, weights: Any) -> np.ndarray:
    """Weiszfeld on the points themselves."""
    x = np.average(points, axis=0, weights=weights)
    for _ in range(3000):
        pull = [w / np.linalg.norm(x - p) for w, p in zip(weights, points, strict=True)]
        x = np.average(points, axis=0, weights=pull)
    return x


def median_of_leaves(leaves: Arrays, sides: Any, key: Any, weights: Any) -> np.ndarray:
    return median(leaves, weights)


def median_of_trees(trees: Any, sides: Any, key: Any, weights: Any, scope: str) -> dict[str, np.ndarray]:
    whole = median([np.concatenate([x.ravel() for x in t.values()]) for t in trees], weights)
    parts = np.split(whole, np.cumsum([x.size for x in trees[0].values()])[:-1])
    return {p: part.reshape(x.shape) for (p, x), part in zip(trees[0].items(), parts, strict=True)}


def consensus(leaves: Arrays, sides: Any, key: Any, strictness: float, least: int, lam: float) -> np.ndarray:
    deltas = [x - sides["base"] for x in leaves]
    out = sides["base"].copy()
    for i in np.ndindex(out.shape):
        merged = sum(d[i] for d in deltas)
        if sum(abs(d[i]) > strictness * abs(merged - d[i]) for d in deltas) >= least:
            out[i] += lam * merged
    return out


def emr(leaves: Arrays, sides: Any, key: Any) -> np.ndarray:
    deltas = [x - sides["base"] for x in leaves]
    out = np.zeros_like(leaves[0])
    for i in np.ndindex(out.shape):
        positive_sum = sum(d[i] for d in deltas) > 0
        out[i] = max(d[i] for d in deltas) if positive_sum else min(d[i] for d in deltas)
    return out


def with_unified(trees: Any, rng: np.random.Generator) -> dict[str, Any]:
    return {**base(trees, rng), "unified": like(trees[0], rng)}


def emr_model(trees: Any, sides: Any, key: Any) -> dict[str, np.ndarray]:
    """One task's weights: what agrees in sign with its task vector, scaled to that one's length in the L1 norm."""
    base, unified = sides["base"], sides["unified"]
    deltas = {p: x - base[p] for p, x in trees[0].items()}
    chosen = {p: np.where(d * unified[p] > 0, unified[p], 0) for p, d in deltas.items()}
    scale = sum(np.abs(d).sum() for d in deltas.values()) / sum(np.abs(c).sum() for c in chosen.values())
    return {p: base[p] + scale * c for p, c in chosen.items()}


def tall_model(leaves: Arrays, sides: Any, key: Any, rule: str, strictness: float) -> np.ndarray:
    own, far = np.abs(leaves[0] - sides["base"]), np.abs(sides["base"] + sides["unified"] - leaves[0])
    return np.where(own > strictness * far, sides["base"] + sides["unified"], sides["base"])


def gram_of_each(trees: Any, rng: np.random.Generator) -> dict[str, Any]:
    return {"gram": tuple(grams((t,), rng)["gram"] for t in trees)}


def regmean(leaves: Arrays, sides: Any, key: Any, alpha: float, weights: Any, damp: float = 0.0) -> np.ndarray:
    """Least squares on inputs that have these Gram matrices: their square roots, stacked, one output after another."""
    if leaves[0].ndim == 3:
        each = [[g[layer] for g in sides["gram"]] for layer in range(len(leaves[0]))]
        return np.stack(
            [
                regmean([x[layer] for x in leaves], {"gram": g}, key, alpha, weights, damp)
                for layer, g in enumerate(each)
            ]
        )
    shrunk = [w * (alpha * g + (1 - alpha) * np.diag(np.diag(g))) for w, g in zip(weights, sides["gram"], strict=True)]
    pull = damp * np.mean(np.diag(sum(shrunk))) * np.eye(len(shrunk[0]))
    models = [*leaves, np.mean(leaves, axis=0)]
    roots = [np.linalg.cholesky(g).T for g in shrunk] + ([np.sqrt(pull)] if damp else [0 * pull])
    wanted = np.concatenate([x @ w for x, w in zip(roots, models, strict=True)])
    return np.linalg.lstsq(np.concatenate(roots), wanted)[0]


def each_matrix(fn: Any) -> Any:
    """The truth of a spectral method from `fn` on its task vectors of one matrix as papers write it, `[out, in]`."""

    def truth(leaves: Arrays, sides: Any, key: Any, lam: float = 1.0, **rest: Any) -> np.ndarray:
        deltas = [x - sides["base"] for x in leaves]
        if leaves[0].ndim == 1:
            return sides["base"] + lam * np.mean(deltas, axis=0)
        if leaves[0].ndim == 2:
            return sides["base"] + lam * fn([d.T for d in deltas], **rest).T
        layers = [fn([d[layer].T for d in deltas], **rest).T for layer in range(len(deltas[0]))]
        return sides["base"] + lam * np.stack(layers)

    return truth


def nearest_orthogonal(m: np.ndarray) -> np.ndarray:
    return polar(m)[0]


@each_matrix
def tsv(deltas: Arrays) -> np.ndarray:
    k = min(deltas[0].shape) // len(deltas)
    us, ss, vs = zip(*(np.linalg.svd(d, full_matrices=False) for d in deltas), strict=True)
    u, v = np.hstack([u[:, :k] for u in us]), np.vstack([v[:k] for v in vs])
    return nearest_orthogonal(u) @ np.diag(np.hstack([s[:k] for s in ss])) @ nearest_orthogonal(v.T).T


@each_matrix
def iso_c(deltas: Arrays) -> np.ndarray:
    total = sum(deltas)
    return np.mean(np.linalg.svd(total)[1]) * nearest_orthogonal(total)


@each_matrix
def iso_cts(deltas: Arrays, common: float) -> np.ndarray:
    r, n = min(deltas[0].shape), len(deltas)
    k = r - round((r - int(r * common)) / n) * n
    u, s, v = (x for x in np.linalg.svd(sum(deltas), full_matrices=False))
    us, ss, vs = [u[:, :k]], [s[:k]], [v[:k]]
    for d in deltas:
        a, b, c = np.linalg.svd(d - u[:, :k] @ u[:, :k].T @ d, full_matrices=False)
        m = (r - k) // n
        us, ss, vs = [*us, a[:, :m]], [*ss, b[:m]], [*vs, c[:m]]
    return np.mean(np.hstack(ss)) * nearest_orthogonal(np.hstack(us)) @ nearest_orthogonal(np.vstack(vs).T).T


def interference(m: np.ndarray, deltas: Arrays) -> np.ndarray:
    """The gradient of WUDI's loss."""
    return sum(2 * (m - d) @ d.T @ d / np.sum(d**2) for d in deltas)


@each_matrix
def wudi(deltas: Arrays, steps: int | None, lr: float = 0.0) -> np.ndarray:
    m = sum(deltas)
    if steps is None:  # the loss is quadratic: its minimum is where the gradient, linear in m, is zero
        zero = interference(np.zeros_like(m), deltas)
        slope = sum(2 * d.T @ d / np.sum(d**2) for d in deltas)
        return -zero @ np.linalg.pinv(slope)
    first, second = np.zeros_like(m), np.zeros_like(m)
    for t in range(1, steps + 1):
        g = interference(m, deltas)
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
        m = m - lr * (first / (1 - 0.9**t)) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
    return m


def within_reach(trees: Any, rng: np.random.Generator) -> dict[str, Any]:
    """A base that both models are turned from by tens of degrees: independent matrices may lie half a circle apart."""

    def one(*models: Any) -> Any:
        if models[0].ndim < 2:
            return like(models[0], rng)
        layers = [turned(*pair) for pair in zip(*models, strict=True)] if models[0].ndim == 3 else turned(*models)
        return jnp.asarray(np.asarray(layers), models[0].dtype)

    def turned(*models: Any) -> np.ndarray:
        tall = models[0].shape[0] > models[0].shape[1]
        wide = [np.nan_to_num(np.asarray(m.T if tall else m, np.float64)) for m in models]
        skews = [0.2 * rng.standard_normal((len(wide[0]), len(wide[0]))) for _ in wide]
        base = (np.linalg.pinv(np.vstack(wide)) @ np.vstack([expm(a - a.T) for a in skews])).T
        return base.T if tall else base

    return {"base": jax.tree.map(one, *trees)}


def ortho_merge(leaves: Arrays, sides: Any, key: Any, lam: float) -> np.ndarray:
    base = sides["base"]
    if base.ndim == 1:
        return base + lam * sum(x - base for x in leaves)
    if base.ndim == 3:
        layers = range(len(base))
        return np.stack([ortho_merge([x[i] for x in leaves], {"base": base[i]}, key, lam) for i in layers])
    if base.shape[0] <= base.shape[1]:
        rotations = [orthogonal_procrustes(base.T, x.T)[0].T for x in leaves]  # r @ base: inputs are turned
        return mean_rotation(rotations, lambda r: r @ base, leaves, lam)
    rotations = [orthogonal_procrustes(base, x)[0] for x in leaves]  # base @ r: outputs are turned
    return mean_rotation(rotations, lambda r: base @ r, leaves, lam)


def rotate(leaves: Arrays, sides: Any, key: Any, alpha: float) -> np.ndarray:
    a, b = leaves
    if a.ndim == 1:
        return a + alpha * (b - a)
    if a.ndim == 3:
        return np.stack([rotate([x, y], sides, key, alpha) for x, y in zip(a, b, strict=True)])
    a, b = a.T, b.T  # neurons in rows
    center = b.mean(axis=0)
    u, s, v = np.linalg.svd((a - a.mean(axis=0)).T @ (b - center))
    rank = int(np.sum(s > 1e-9 * s[0]))
    turn = u[:, :rank] @ v[:rank]
    return ((a - a.mean(axis=0)) @ turn * (1 - alpha) + alpha * (b - center) + center).T


def mean_rotation(rotations: Arrays, turn: Any, leaves: Arrays, lam: float) -> np.ndarray:
    one = np.eye(len(rotations[0]))
    skews = [(r - one) @ np.linalg.inv(r + one) for r in rotations]
    mean = np.mean(skews, axis=0)
    mean = mean / np.linalg.norm(mean) * np.mean([np.linalg.norm(a) for a in skews])
    turned = turn((one + mean) @ np.linalg.inv(one - mean))
    return turned + lam * sum(x - turn(r) for x, r in zip(leaves, rotations, strict=True))


def row(name: str, truth: Any, trees: int = 3, **rest: Any) -> Row:
    return Row(f"merge.{name}", getattr(ws.merge, name.partition("(")[0]), truth, trees=trees, **rest)


WEIGHTS: dict[str, Any] = {"weights": (0.8, 1.0, 0.7)}  # none has more than half
OTHERS: dict[str, Any] = {"weights": (1.0, 0.9, 0.75)}

# float32's rounding turns a subspace by itself over the gap of singular values, a rotation over the least of them.
TURNED = 1e-5

ROWS = [
    row(
        "fisher",
        fisher,
        settings={**WEIGHTS, "floor": 0.3},
        numeric={**OTHERS, "floor": 0.5},
        sides=fishers,
        families=("symmetric",),
        equal={},
    ),
    row(
        "fisher(normalized)",
        normalized_fisher,
        settings={**WEIGHTS, "normalize": True},
        numeric=OTHERS,
        sides=fishers,
        whole=True,
        equal={"normalize": True},
    ),
    row("magmax", magmax, settings={"lam": 0.5}, numeric={"lam": 0.8}, sides=base, equal={"lam": 1.0}),
    row("geometric_median", median_of_leaves, settings=WEIGHTS, numeric=OTHERS, families=("symmetric",), equal={}),
    row(
        "geometric_median(of trees)",
        median_of_trees,
        settings={**WEIGHTS, "scope": "tree"},
        numeric=OTHERS,
        whole=True,
        families=("symmetric",),
        equal={"scope": "tree"},
    ),
    row(
        "consensus",
        consensus,
        settings={"strictness": 0.4, "least": 2, "lam": 0.7},
        numeric={"strictness": 0.6, "lam": 0.3},
        sides=base,
        families=("symmetric",),
        equal={"least": 1, "lam": 1 / 3, "strictness": 0.2},
    ),
    row("emr", emr, sides=base, families=("symmetric",)),
    row("modulate", emr_model, trees=1, sides=with_unified, whole=True),
    row(
        "modulate(tall)",
        tall_model,
        trees=1,
        settings={"rule": "tall", "strictness": 0.4},
        numeric={"strictness": 0.8},
        sides=with_unified,
    ),
    row(
        "regmean",
        regmean,
        settings={**WEIGHTS, "alpha": 0.9},
        numeric={**OTHERS, "alpha": 0.5, "damp": 0.1},
        sides=gram_of_each,
        matrices=True,
        families=("symmetric",),
        gathers=True,
        equal={},
    ),
    row(
        "tsv",
        tsv,
        tolerance=TURNED,
        settings={"lam": 0.7},
        numeric={"lam": 0.3},
        sides=base,
        families=("symmetric",),
        gathers=True,
    ),
    row("iso_c", iso_c, settings={"lam": 0.7}, numeric={"lam": 0.3}, sides=base, families=("symmetric",), gathers=True),
    row(
        "iso_cts",
        iso_cts,
        tolerance=TURNED,
        settings={"lam": 0.7, "common": 0.5},
        numeric={"lam": 0.3},
        sides=base,
        gathers=True,
    ),
    row(
        "wudi",
        wudi,
        settings={"steps": 6, "lr": 0.02, "lam": 0.7},
        numeric={"lr": 0.05, "lam": 0.3},
        sides=base,
        families=("symmetric",),
        gathers=True,
    ),
    row(
        "wudi(minimum)",
        wudi,
        settings={"steps": None, "lam": 0.7},
        numeric={"lam": 0.3},
        sides=base,
        families=("symmetric",),
        gathers=True,
    ),
    row(
        "ortho_merge",
        ortho_merge,
        tolerance=TURNED,
        trees=2,
        settings={"lam": 0.2},
        numeric={"lam": 0.4},
        sides=within_reach,
        families=("symmetric",),
        gathers=True,
        equal={"lam": 0.5},
    ),
    row(
        "rotate",
        rotate,
        trees=2,
        settings={"alpha": 0.3},
        numeric={"alpha": 0.6},
        gathers=True,
        equal={},
    ),
]
