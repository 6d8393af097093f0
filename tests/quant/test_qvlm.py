"""Deleted, a block could be cut elsewhere than its entropy says, or a joint search be worse than a greedy one."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from wspace.core.errors import ShapeError
from wspace.quant import activation_entropy, dependency, fake_quantize_activations, partition_blocks, search_ranges

RNG = np.random.default_rng(0)


def test_entropy_and_dependency_are_those_of_a_loop() -> None:
    x, y = np.abs(RNG.standard_normal((2, 9, 5)))
    entropy, hangs = [], []
    for c in range(5):
        p, q = x[:, c] / x[:, c].sum(), y[:, c] / y[:, c].sum()
        entropy.append(-sum(a * np.log(a) for a in p))
        joint, given = p * q / sum(p * q), (q / p) / sum(q / p)
        hangs.append(-sum(a * np.log(b) for a, b in zip(joint, given, strict=True)))
    assert float(activation_entropy(jnp.asarray(-x, jnp.float32))) == pytest.approx(np.mean(entropy), rel=1e-5)
    got = dependency(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32))
    assert float(got) == pytest.approx(np.mean(hangs), rel=1e-5)
    assert np.isfinite(float(activation_entropy(jnp.zeros((4, 2)))))


def test_blocks_hold_every_layer_once_and_no_more_than_they_may() -> None:
    scores = RNG.random(40).tolist()
    for most in (1, 2, 3):
        blocks = partition_blocks(scores, most)
        assert [k for b in blocks for k in b] == list(range(40)) and max(map(len, blocks)) == most
    for block in partition_blocks(scores, 3):
        assert all(scores[k] >= np.mean(scores[:k]) for k in block[1:])


def test_a_joint_search_of_two_layers_is_the_best_of_all_and_never_worse_than_greedy() -> None:
    x = RNG.standard_normal((64, 16)) ** 3
    a, b = RNG.standard_normal((2, 16, 16)) / 4
    exact = np.maximum(x @ a, 0) @ b

    def quantized(x: np.ndarray, ratio: float) -> np.ndarray:
        edge = np.abs(x).max() * ratio
        clipped = np.append(np.clip(x, -edge, edge).ravel(), edge)[None]
        return np.asarray(fake_quantize_activations(jnp.asarray(clipped, jnp.float32), 3, "tensor"))[0, :-1].reshape(
            x.shape
        )

    def error(ratios: tuple[float, ...]) -> float:
        hidden = np.maximum(quantized(x, ratios[0]) @ a, 0)
        return float(np.mean(np.abs(quantized(hidden, ratios[1]) @ b - exact) ** 0.5))

    ratios = (1.0, 0.7, 0.4, 0.2)
    joint, greedy = search_ranges(error, [(0, 1)], ratios), search_ranges(error, [(0,), (1,)], ratios)
    assert error(joint) == min(error((r, s)) for r in ratios for s in ratios)
    assert error(joint) <= error(greedy) <= error((1.0, 1.0))
    with pytest.raises(ShapeError, match="must name the layers 0, 1"):
        search_ranges(error, [(0,), (0,)])
