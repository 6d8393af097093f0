"""Rows of LoRA extraction and of merging adapters, and their slow numpy truths.

The adapters to merge take their factors from the corner of the example's matrices: a its first columns, b its first
rows.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import wspace as ws
from tests.rows import Row, like
from wspace.reparam import LoRA
from wspace.stats.sharding import gathered

Arrays = list[np.ndarray]
RANK, SCALE = 3, 2.0


def base(trees: Any, rng: np.random.Generator) -> dict[str, Any]:
    return {"base": like(trees[0], rng)}


def layers(x: np.ndarray) -> np.ndarray:
    return x if x.ndim == 3 else x[None]


def nearest(delta: np.ndarray, rank: int) -> np.ndarray:
    """The sum of the first outer products of singular vectors."""
    u, s, vt = np.linalg.svd(delta)
    return np.array(sum(s[i] * np.outer(u[:, i], vt[i]) for i in range(min(rank, len(s)))))


def extracted(leaves: Arrays, sides: Any, key: Any, rank: int) -> np.ndarray:
    out = np.array(sides["base"])
    for layer, w in zip(layers(out), layers(leaves[0]), strict=True):
        layer += nearest(w - layer, rank)
    return out


def corner() -> ws.Transform:
    """A tree as an adapter of rank 3 (or the smaller side) and scale 2 on the side tree base."""

    def apply(leaves: tuple[Any, ...], ctx: ws.Context) -> LoRA:
        view = ctx.view()
        m = view.to_matrix(jnp.asarray(leaves[0]).astype(jnp.float32))
        m = gathered(gathered(m, -1), -2)
        r = min(RANK, *m.shape[-2:])
        scale = jnp.full(view.matrix_shape[: view.stacks], SCALE, jnp.float32)
        return LoRA(jnp.asarray(ctx.side("base")), m[..., :r], m[..., :r, :], scale, view)

    return ws.Transform(apply, "corner", needs=frozenset({"base"}))


def trimmed(x: np.ndarray, density: float) -> np.ndarray:
    kept = np.zeros(x.size)
    for i in sorted(range(x.size), key=lambda i: -abs(x.ravel()[i]))[: int(density * x.size)]:
        kept[i] = x.ravel()[i]
    return kept.reshape(x.shape)


def elected(xs: Arrays, weights: Any, frequency: bool) -> np.ndarray:
    """Entry by entry, the weighted sum of those with the majority's sign over how many they are."""
    out = np.zeros(xs[0].shape)
    for at in np.ndindex(out.shape):
        values = [x[at] for x in xs]
        sign = 1 if sum(np.sign(values) if frequency else values) >= 0 else -1
        agree = [w * v for w, v in zip(weights, values, strict=True) if np.sign(v) == sign]
        out[at] = sum(agree) / max(len(agree), 1)
    return out


def ties_svd(leaves: Arrays, sides: Any, key: Any, weights: Any, density: float) -> np.ndarray:
    out = np.array(sides["base"])
    for i, layer in enumerate(layers(out)):
        updates = [trimmed(SCALE * m[:, :RANK] @ m[:RANK], density) for m in (layers(x)[i] for x in leaves)]
        layer += nearest(elected(updates, weights, frequency=True), RANK)
    return out


def dropped(x: np.ndarray, key: Any, density: float) -> np.ndarray:
    draws = np.asarray(jax.random.uniform(key, x.shape))
    return np.where(draws < np.float32(density), x / density, 0)


def dare_linear(leaves: Arrays, sides: Any, key: Any, weights: Any, density: float) -> np.ndarray:
    """Factors apart; the key of adapter k is the leaf's, folded with k's place, split for its two factors."""
    key = jax.random.fold_in(key, 1)  # the second part of a chain
    sums: Any = [0, 0]
    for k, (x, w) in enumerate(zip(leaves, weights, strict=True)):
        own, root = jax.random.split(jax.random.fold_in(key, 2**31 + k), 2), np.sqrt(SCALE * abs(w))
        sums[0] = sums[0] + np.sign(w) * root * dropped(x[..., :RANK], own[0], density)
        sums[1] = sums[1] + root * dropped(x[..., :RANK, :], own[1], density)
    return sides["base"] + sums[0] @ sums[1]


def combined(how: str, **settings: Any) -> Any:
    def make(**changes: Any) -> ws.Transform:
        return ws.chain(corner(), ws.reparam.combine_adapters(how, **settings, **changes))

    return make


ROWS = [
    Row(
        "reparam.extract_lora",
        ws.reparam.extract_lora,
        extracted,
        settings={"rank": RANK},
        sides=base,
        matrices=True,
        gathers=True,
    ),
    Row(
        "reparam.combine_adapters(ties_svd)",
        combined("ties_svd", majority_sign_method="frequency", rank=RANK),
        ties_svd,
        settings={"weights": (1.0, 0.5, -0.3), "density": 0.6},
        numeric={"weights": (0.2, 0.5, 1.5), "density": 0.9},
        trees=3,
        sides=base,
        matrices=True,
        gathers=True,
    ),
    Row(
        "reparam.combine_adapters(dare_linear)",
        combined("dare_linear"),
        dare_linear,
        settings={"weights": (1.0, -0.3), "density": 0.6},
        numeric={"weights": (0.2, 1.5), "density": 0.9},
        trees=2,
        sides=base,
        matrices=True,
        random=True,
        gathers=True,
    ),
]
