"""Deleted, Wanda could lose what the paper claims for it, or take a Gram matrix that is not the leaf's."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import wspace as ws
from tests.stats.grams import activations, gram
from wspace.stats.gram import Diagonal


def test_the_worked_example() -> None:
    """Three outputs of four inputs with norms 1, 2, 8, 3, half of each row pruned, by hand: scores
    4 0 8 3 | 3 4 8 9 | 3 2 0 6, so the small weight on the loud input stays."""
    w = np.array([[4, 0, 1, -1], [3, -2, -1, -3], [-3, 1, 0, 2]], np.float32)
    side = {"layer": {"weight": jnp.diag(jnp.array([1.0, 4.0, 64.0, 9.0]))}}
    got = ws.prune.wanda(0.5)({"layer": {"weight": w}}, gram=side)["layer"]["weight"]
    np.testing.assert_array_equal(got, [[4, 0, 1, 0], [0, 0, -1, -3], [-3, 0, 0, 2]])


@pytest.mark.parametrize("settings", [{"sparsity": 0.6}, {"n": 2, "m": 4}], ids=["sparsity", "2:4"])
def test_beats_magnitude_where_inputs_differ_in_size(settings: dict[str, Any]) -> None:
    """A few loud inputs, as in language models: the error of the layer's output, on data not seen before."""
    rng = np.random.default_rng(0)
    x, held_out = np.split(activations(rng, 400, 64) * np.where(np.arange(64) % 13 == 0, 8, 1), 2)
    w = rng.standard_normal((64, 32)).astype(np.float32)
    wanda = ws.prune.wanda(**settings)({"kernel": w}, gram={"kernel": gram(x)})["kernel"]
    plain = ws.prune.nm(2, 4) if "n" in settings else ws.prune.magnitude(0.6)
    error = [np.linalg.norm(held_out @ (np.asarray(q) - w)) for q in (wanda, plain({"kernel": w})["kernel"])]
    assert error[0] < 0.8 * error[1]


def test_a_diagonal_is_enough() -> None:
    rng = np.random.default_rng(1)
    w, moments = rng.standard_normal((2, 8, 6)).astype(np.float32), rng.random((2, 8)).astype(np.float32)
    whole = np.stack([np.diag(m) for m in moments])
    for settings in ({"sparsity": 0.5}, {"n": 1, "m": 4}):
        a, b = (
            ws.prune.wanda(**settings)({"layers": {"kernel": w}}, gram={"layers": {"kernel": side}})
            for side in (whole, Diagonal(jnp.asarray(moments)))
        )
        np.testing.assert_array_equal(a["layers"]["kernel"], b["layers"]["kernel"])


@pytest.mark.parametrize(
    ("arguments", "side", "words"),
    [
        ({"sparsity": 0.5}, np.eye(7), r"'gram' has \(7, 7\) for layer/kernel \(8, 6\), .* ask for \(8, 8\)"),
        ({"sparsity": 0.5}, Diagonal(jnp.ones(7)), r"'gram' has \(7,\) for layer/kernel \(8, 6\), .* ask for \(8,\)"),
        ({"n": 2, "m": 3}, np.eye(8), "layer/kernel has 8 inputs, which m=3"),
        ({"sparsity": -0.5}, np.eye(8), "-0.5 is no fraction"),
    ],
)
def test_misuse_is_named(arguments: dict[str, Any], side: Any, words: str) -> None:
    with pytest.raises(ws.WspaceError, match=words):
        ws.prune.wanda(**arguments)({"layer": {"kernel": jnp.ones((8, 6))}}, gram={"layer": {"kernel": side}})


@pytest.mark.parametrize("arguments", [{}, {"sparsity": 0.5, "n": 2, "m": 4}, {"n": 2}, {"sparsity": 0.5, "m": 4}])
def test_one_way_to_say_how_much(arguments: dict[str, Any]) -> None:
    with pytest.raises(ws.WspaceError, match="a sparsity, or n and m"):
        ws.prune.wanda(**arguments)
