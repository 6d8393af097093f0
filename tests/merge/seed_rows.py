"""Rows of uncertainty-based, delta-guided and signature merging, and their slow numpy truths."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import wspace as ws
from tests.rows import Row, like
from tests.stats.grams import grams

Arrays = list[np.ndarray]


def base(trees: Any, rng: np.random.Generator) -> dict[str, Any]:
    return {"base": like(trees[0], rng)}


def positive(tree: Any, rng: np.random.Generator) -> Any:
    """Another tree whose floating leaves are above 0.1."""

    def one(x: Any) -> Any:
        return jnp.abs(x) + jnp.asarray(0.1, x.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(one, like(tree, rng))


def hessians(trees: Any, rng: np.random.Generator) -> dict[str, Any]:
    fisher = tuple(positive(t, rng) for t in trees)
    return {**base(trees, rng), "fisher": fisher, "base_fisher": positive(trees[0], rng)}


def uncertainty(leaves: Arrays, sides: Any, key: Any, weights: Any = None, delta0: float = 1e-12) -> np.ndarray:
    """The optimum of quadratic losses: entry by entry, the joint minimum of what each fine-tune minimized alone."""
    shares = np.ones(len(leaves)) if weights is None else weights
    theta0, prior = sides["base"], sides["base_fisher"] + delta0
    numerator, divisor = prior * theta0, prior.copy()
    for a, h, theta in zip(shares, sides["fisher"], leaves, strict=True):
        center = theta0 + (prior + h) * (theta - theta0) / h  # where the task's own loss is least
        numerator = numerator + a * h * center
        divisor = divisor + a * h
    return numerator / divisor


def robust_weight_signature(leaves: Arrays, sides: Any, key: Any) -> np.ndarray:
    """The residual of the least-squares fit of one task vector by the other."""
    r, c = ((x - sides["base"]).ravel() for x in leaves)
    fit = np.linalg.lstsq(c[:, None], r, rcond=None)[0]
    return (r - c * fit[0]).reshape(leaves[0].shape)


def patch(leaves: Arrays, sides: Any, key: Any, weights: Any = None) -> np.ndarray:
    model, *signatures = leaves
    return model + (np.mean(signatures, 0) if weights is None else np.tensordot(weights, np.stack(signatures), axes=1))


def delta_weighted(leaves: Arrays, sides: Any, key: Any, power: float = 1.0, scope: str = "leaf") -> np.ndarray:
    deltas = [x - sides["base"] for x in leaves]
    sizes = [np.abs(d) if scope == "entry" else np.full(d.shape, np.linalg.norm(d)) for d in deltas]
    return sides["base"] + np.average(deltas, axis=0, weights=[s**power for s in sizes])


SHARES = (0.5, 0.3, 0.2)

ROWS = [
    Row(
        "merge.uncertainty",
        ws.merge.uncertainty,
        uncertainty,
        settings={"weights": (0.5, 1.0, 0.25), "delta0": 0.1},
        numeric={"weights": (1.0, 0.5, 0.75), "delta0": 0.3},
        trees=3,
        sides=hessians,
        equal={"weights": SHARES},
    ),
    Row(
        "merge.robust_weight_signature",
        ws.merge.robust_weight_signature,
        robust_weight_signature,
        trees=2,
        sides=base,
    ),
    Row("merge.patch", ws.merge.patch, patch, trees=3),
    Row(
        "merge.patch(weights)",
        ws.merge.patch,
        patch,
        settings={"weights": (0.7, -0.4)},
        numeric={"weights": (0.1, 2.0)},
        trees=3,
    ),
    Row(
        "merge.delta_weighted",
        ws.merge.delta_weighted,
        delta_weighted,
        settings={"power": 1.0},
        numeric={"power": 2.5},
        trees=3,
        sides=base,
        families=("symmetric",),
        equal={},
    ),
    Row(
        "merge.delta_weighted(entry)",
        ws.merge.delta_weighted,
        delta_weighted,
        settings={"power": 1.0, "scope": "entry"},
        numeric={"power": 0.5},
        trees=3,
        sides=base,
        families=("symmetric",),
        equal={"scope": "entry"},
    ),
]


def kept(delta: np.ndarray, key: Any, density: float, tree: int) -> np.ndarray:
    """The draws are jax's own, from the key that this leaf of this tree is promised."""
    mine = key if tree == 0 else jax.random.fold_in(key, 2**31 + tree)
    return np.where(np.asarray(jax.random.uniform(mine, delta.shape, np.float32)) < np.float32(density), delta, 0)


def least_error(delta: np.ndarray, gram: np.ndarray, density: float) -> float:
    """The least expected output error over q, which is quadratic in 1/q: by its two coefficients."""
    wanted = np.einsum("io,ij,jo->", delta, gram, delta)
    variance = sum(delta[i, o] ** 2 * gram[i, i] for i in range(delta.shape[0]) for o in range(delta.shape[1]))
    noise, mean = density * (1 - density) * variance, density**2 * wanted
    return 1 / (density * wanted / (mean + noise))


def darex(
    leaves: Arrays, sides: Any, key: Any, density: float, q: Any = None, weights: Any = None, lam: float = 1.0
) -> np.ndarray:
    out = sides["base"].copy()
    for k, x in enumerate(leaves):
        delta = x - sides["base"]
        dropped = (1 if weights is None else weights[k]) * kept(delta, key, density, k)
        if q is not None:
            out += lam * dropped / q
        elif delta.ndim == 2:
            out += lam * dropped / least_error(delta, sides["gram"], density)
        else:
            each = [least_error(d, g, density) for d, g in zip(delta, sides["gram"], strict=True)]
            out += lam * dropped / np.reshape(each, (-1, 1, 1))
    return out


ROWS += [
    Row(
        "merge.darex(q)",
        ws.merge.darex,
        darex,
        settings={"density": 0.4, "q": 0.6},
        numeric={"density": 0.7, "q": 0.9, "weights": (0.3, 0.8), "lam": 0.5},
        trees=2,
        sides=base,
        random=True,
        equal={"density": 1.0, "q": 1.0, "lam": 0.5},
    ),
    Row(
        "merge.darex",
        ws.merge.darex,
        darex,
        settings={"density": 0.4},
        numeric={"density": 0.7, "lam": 0.5},
        trees=2,
        sides=lambda trees, rng: {**base(trees, rng), **grams(trees, rng)},
        matrices=True,
        random=True,
        gathers=True,  # gram @ delta meets every input with every other
        equal={"density": 1.0, "lam": 0.5},
    ),
]
