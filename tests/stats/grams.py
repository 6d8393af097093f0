"""Side trees of Gram matrices for rows and tests of calibrated methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def activations(rng: np.random.Generator, tokens: int, inputs: int) -> np.ndarray:
    """Correlated inputs of unequal size, as real layers see them: `[tokens, in]`."""
    mix = rng.standard_normal((inputs, inputs)) / np.sqrt(max(inputs, 1)) + np.eye(inputs)
    return rng.standard_normal((tokens, inputs)) @ mix * np.exp(0.5 * rng.standard_normal(inputs))


def gram(x: np.ndarray) -> np.ndarray:
    """The mean of x x^T over tokens, one token after another."""
    return sum((np.outer(row, row) for row in x), np.zeros((x.shape[1], x.shape[1]))) / len(x)


def grams(trees: Any, rng: np.random.Generator) -> dict[str, Any]:
    """One Gram matrix for each matrix of the example tree, one for each layer of a stack."""

    def one(w: Any) -> Any:
        if w.ndim == 2:
            return gram(activations(rng, 48, w.shape[0]))
        return np.stack([gram(activations(rng, 48, w.shape[1])) for _ in range(w.shape[0])])

    kernels = {k: {"kernel": layer["kernel"]} for k, layer in trees[0].items() if isinstance(layer, dict)}
    return {"gram": jax.tree.map(lambda w: jnp.asarray(one(w), jnp.float32), kernels)}


def statistics(trees: Any, rng: np.random.Generator, names: Sequence[str]) -> dict[str, Any]:
    """Of the same inputs, by name: Gram matrices, the mean and the largest |x|."""
    of = {"gram": gram, "abs_mean": lambda x: np.abs(x).mean(0), "abs_max": lambda x: np.abs(x).max(0)}

    def each(w: Any) -> dict[str, Any]:
        tokens = [activations(rng, 48, w.shape[-2]) for _ in range(1 if w.ndim == 2 else w.shape[0])]
        made = {name: np.stack([of[name](x) for x in tokens]) for name in names}
        return {name: jnp.asarray(x[0] if w.ndim == 2 else x, jnp.float32) for name, x in made.items()}

    found = {k: each(layer["kernel"]) for k, layer in trees[0].items() if isinstance(layer, dict)}
    return {name: {k: {"kernel": x[name]} for k, x in found.items()} for name in names}
