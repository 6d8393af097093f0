"""Side trees of Gram matrices for rows and tests of calibrated methods."""

from __future__ import annotations

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
    tree = trees[0]
    dense, layers = tree["dense"]["kernel"], tree["layers"]["kernel"]
    one = gram(activations(rng, 48, dense.shape[0]))
    stack = np.stack([gram(activations(rng, 48, layers.shape[1])) for _ in range(layers.shape[0])])
    sides = {"dense": {"kernel": one}, "layers": {"kernel": stack}}
    return {"gram": jax.tree.map(lambda g: jnp.asarray(g, jnp.float32), sides)}
