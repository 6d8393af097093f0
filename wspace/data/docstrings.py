"""A retrieval task without a download: from the first paragraph of a standard library docstring, find the rest of it.

    retrieval(minilm.load(), docstring_pairs())     # {"r@1": ..., "mrr": ...}

The pairs are those of the Python that runs: numbers are comparable within one Python version, not across versions.
"""

from __future__ import annotations

import ast
import sys
import sysconfig
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import jax
import numpy as np

from wspace.core.errors import FormatError, ShapeError
from wspace.data import minilm

Pair = tuple[str, str]
Batches = Iterable[tuple[np.ndarray, minilm.Batch]]
Watch = Callable[[list[tuple[np.ndarray, minilm.Batch]]], Batches]
LENGTHS = (16, 32, 48, 64, 96, 128)  # tokens: rows are padded to one of these (so few programs) and cut at the last
ROWS = 32  # rows in one call of the model
TESTS = {"test", "tests", "idle_test"}  # folders of packages whose docstrings are not about them

_encode = jax.jit(minilm.encode)


def docstring_pairs() -> list[Pair]:
    """(first paragraph, the rest) of the public docstrings in the standard library's top-level modules.

    Kept: at least 5 words in the first paragraph and 15 in the rest, both seen for the first time. Read as source,
    nothing is imported, in the order of module names: the same list on every machine with this Python version (900
    pairs on 3.11.7).

    Raises:
      FormatError: the standard library's sources are not on this machine (a zipped or stripped Python).
    """
    return _pairs("*.py")


def other_pairs() -> list[Pair]:
    """Pairs of the standard library's packages (asyncio, email, ...), to calibrate on: of the same kind as
    `docstring_pairs`, and none of its paragraphs among them. 896 pairs on 3.11.7.

    Raises:
      FormatError: as for `docstring_pairs`.
    """
    seen = {text for pair in docstring_pairs() for text in pair}
    return [pair for pair in _pairs("*/**/*.py") if seen.isdisjoint(pair)]


def _pairs(pattern: str) -> list[Pair]:
    library = Path(sysconfig.get_paths()["stdlib"])
    names = sorted(path.relative_to(library) for path in library.glob(pattern))
    mine = [n for n in names if n.with_suffix("").parts[0] in sys.stdlib_module_names and TESTS.isdisjoint(n.parts)]
    firsts: set[str] = set()
    rests: dict[str, str] = {}
    for name in mine:
        for node in ast.walk(ast.parse((library / name).read_bytes())):
            if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            first, _, rest = (" ".join(part.split()) for part in (ast.get_docstring(node) or "").partition("\n\n"))
            is_public = not getattr(node, "name", "").startswith("_")
            is_long = len(first.split()) >= 5 and len(rest.split()) >= 15
            if is_public and is_long and first not in firsts and rest not in rests:
                firsts.add(first)
                rests[rest] = first
    if not rests:
        raise FormatError(f"docstrings: no sources of the standard library in {library}; use a Python that has them.")
    return [(first, rest) for rest, first in rests.items()]


def embed(params: minilm.Params, texts: Sequence[str], watch: Watch = iter) -> np.ndarray:
    """Sentence embeddings of many texts, f32 [n, 384], in batches of similar length.

    Args:
      params: MiniLM's weights, any float dtype; see `minilm.encode`.
      texts: cut at 128 tokens each.
      watch: gets the list of batches and returns an iterable of it: the place for a progress bar (`tqdm`).
    """
    out = np.zeros((len(texts), minilm.WIDTH), np.float32)
    for own, batch in watch(batches(texts)):
        out[own] = _encode(params, *batch)[: len(own)]
    return out


def batches(texts: Sequence[str]) -> list[tuple[np.ndarray, minilm.Batch]]:
    """Texts in batches of 32 and of few lengths: which texts, and their tokens, where a short batch repeats rows."""
    rows = minilm.tokenize(texts, longest=LENGTHS[-1])
    bucket = np.searchsorted(LENGTHS, np.asarray(rows.mask).sum(1))
    made = []
    for i, length in enumerate(LENGTHS):
        members = np.flatnonzero(bucket == i)
        for k in range(0, len(members), ROWS):
            own = members[k : k + ROWS]
            full = np.resize(own, ROWS)  # one shape, one program
            made.append((own, minilm.Batch(*(_fit(part[full], length) for part in rows))))
    return made


def _fit(rows: np.ndarray | jax.Array, length: int) -> np.ndarray:
    """Cut or zero-pad the second axis: id 0 is [PAD], mask 0 is False."""
    return np.pad(rows[:, :length], ((0, 0), (0, max(0, length - rows.shape[1]))))


def retrieval(params: minilm.Params, pairs: Sequence[Pair], watch: Watch = iter) -> dict[str, float]:
    """How well first paragraphs find their own rest among all rests, by cosine similarity.

    Args:
      params: MiniLM's weights, any float dtype; see `minilm.encode`.
      pairs: (query, document); every document is a candidate for every query.
      watch: as for `embed`; called once.
    Returns:
      "r@1": fraction of queries whose own document comes first; "mrr": mean of 1 / rank. Both in [0, 1], larger is
      better. A tie counts as lost and so does NaN: embeddings that collapsed to one point score about 1 / len(pairs).
      fp32 on Python 3.11.7: r@1 0.402, mrr 0.527, about 20 s on two cores.
    """
    if not pairs:
        raise ShapeError("retrieval: no pairs; wanted a list of (query, document).")
    params = jax.device_put({name: w for name, w in params.items() if name != "embeddings.position_ids"})
    vectors = embed(params, [text for pair in pairs for text in pair], watch)
    return scores(vectors[::2], vectors[1::2])


def scores(queries: np.ndarray, documents: np.ndarray) -> dict[str, float]:
    """Recall at 1 and mean reciprocal rank, where row i of `documents` answers row i of `queries`; both [n, d].

    Example:
      >>> scores(np.eye(3), np.eye(3)[[0, 2, 1]])
      {'r@1': 0.3333333333333333, 'mrr': 0.5555555555555555}
    """
    if queries.shape != documents.shape or queries.ndim != 2 or not len(queries):
        raise ShapeError(f"retrieval: wanted two arrays [n, d], n > 0, got {queries.shape} and {documents.shape}.")
    similarity = queries @ documents.T
    own = np.diagonal(similarity)[:, None]
    rank = len(queries) - (similarity < own).sum(1)  # 1 is best; whatever is not surely below counts as above
    return {"r@1": float((rank == 1).mean()), "mrr": float((1 / rank).mean())}
