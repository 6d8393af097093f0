"""Q-VLM: layers whose errors hang together are searched together. Entropy of activations says which do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import jax
import jax.numpy as jnp

from wspace.core.errors import ShapeError, WspaceError
from wspace.core.typing import Array

RATIOS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)  # the authors' code, for the language model
FLOOR = 1e-12  # of a probability


def _over_tokens(x: Array) -> Array:
    """|x| `[tokens, channels]` as probabilities over tokens, for each channel; uniform where all are zero."""
    size = jnp.abs(x)
    total = jnp.sum(size, axis=0, keepdims=True)
    return jnp.where(total > 0, size / jnp.where(total > 0, total, 1), 1 / max(x.shape[0], 1))


@jax.jit
def activation_entropy(x: Array) -> Array:
    """How evenly activations spread over tokens: the mean over channels of -sum_t p log p, p = |x| / sum_t |x|.

    Args:
      x: quantized activations, floating `[tokens, channels]`.
    Returns:
      scalar in nats: 0 where each channel has one token alone, log(tokens) where all have the same.
    Example:
      >>> abs(activation_entropy(jnp.eye(4))), jnp.exp(activation_entropy(jnp.ones((4, 2)))).round(3)
      (Array(0., dtype=float32), Array(4., dtype=float32))

    Reference: Wang et al., 2024, "Q-VLM: Post-training Quantization for Large Vision-Language Models".
    Differs from the paper: p sums to 1, as a probability does; the authors' code divides by the Euclidean norm.
    """
    p = _over_tokens(x)
    return jnp.mean(jnp.sum(p * -jnp.log(jnp.maximum(p, FLOOR)), axis=0))


@jax.jit
def dependency(x: Array, y: Array) -> Array:
    """Discrepancy of entropy of two consecutive layers, of activations x and y `[tokens, channels]`: how far the second
    hangs on the first.

        -sum_t p(x, y) log p(y | x),   p(x, y) = p_x p_y / sum_t p_x p_y,   p(y | x) = (p_y / p_x) / sum_t (p_y / p_x)

    and the mean over channels.

    Example:
      >>> dependency(jnp.ones((4, 2)), jnp.ones((4, 2))).round(3)  # log 4
      Array(1.386, dtype=float32)

    Reference: as `activation_entropy`.
    Differs from the paper: none known.
    """
    p, q = _over_tokens(x), _over_tokens(y)
    joint = p * q
    joint = joint / jnp.maximum(jnp.sum(joint, axis=0, keepdims=True), FLOOR)
    given = q / jnp.maximum(p, FLOOR)
    given = given / jnp.maximum(jnp.sum(given, axis=0, keepdims=True), FLOOR)
    return jnp.mean(-jnp.sum(joint * jnp.log(jnp.maximum(given, FLOOR)), axis=0))


def partition_blocks(scores: Sequence[float], most: int = 3) -> list[tuple[int, ...]]:
    """Cut a row of layers into blocks: a layer joins the one before it where its score reaches the mean so far.

    Args:
      scores: of each layer in order, its entropy or its dependency on the layer before. most: layers in a block.
    Returns:
      list of tuples of layer numbers; together all of them.
    Raises:
      WspaceError: most below 1.
    Example:
      >>> partition_blocks([1.0, 0.5, 2.0, 2.0, 2.0, 0.1])
      [(0,), (1, 2, 3), (4,), (5,)]

    Reference: as `activation_entropy`.
    Differs from the paper: the mean is that of the layers before, as in its text; its code has a number for LLaVA.
    """
    if most < 1:
        raise WspaceError(f"partition_blocks: most={most} leaves no layer in a block; 3 is the paper's")
    blocks: list[tuple[int, ...]] = []
    for k, score in enumerate(scores):
        joins = k > 0 and score >= sum(scores[:k]) / k and len(blocks[-1]) < most
        if joins:
            blocks[-1] = (*blocks[-1], k)
        else:
            blocks.append((k,))
    return blocks


def search_ranges(
    error: Callable[[tuple[float, ...]], float],
    blocks: Sequence[Sequence[int]],
    ratios: Sequence[float] = RATIOS,
) -> tuple[float, ...]:
    """How far to draw in the range of each layer's activations: all combinations within a block, one block after
    another.

    Args:
      error: (ratio of each layer) -> a number, smaller is better, such as mean |Q(x) - x|^0.5 of a block's output. A
        block of n layers costs len(ratios)^n calls.
      blocks: of layer numbers, as of `partition_blocks`; single layers are a greedy search.
      ratios: to choose from; the first one is where all start.
    Returns:
      a ratio a layer. The error is at most that of the start.
    Raises:
      ShapeError: blocks do not name each layer once.
    Example:
      >>> search_ranges(lambda r: abs(r[0] * r[1] - 0.42), [(0, 1)], (1.0, 0.7, 0.6))
      (0.7, 0.6)

    Reference: as `activation_entropy`.
    Differs from the paper: none known.
    """
    named = sorted(k for block in blocks for k in block)
    if named != list(range(len(named))):
        raise ShapeError(f"search_ranges: blocks {list(map(tuple, blocks))} must name the layers 0, 1, ... once each")
    found = [float(ratios[0])] * len(named)
    for block in blocks:
        best, least = found, float(error(tuple(found)))
        for choice in product(ratios, repeat=len(block)):
            now = list(found)
            for k, ratio in zip(block, choice, strict=True):
                now[k] = float(ratio)
            value = float(error(tuple(now)))
            if value < least:
                best, least = now, value
        found = best
    return tuple(found)
