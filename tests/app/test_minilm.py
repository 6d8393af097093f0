"""Deleted, a run on a real model folder could lose a file, a dtype, a tensor, or the model's meaning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import wspace as ws
from wspace.app.cli import main
from wspace.core.errors import MissingExtra
from wspace.data import minilm

ROOT = Path(__file__).parents[2]
TEXTS = ["A cat sat on the mat.", "The stock market fell sharply today.", "A kitten rested on a rug."]


@pytest.mark.slow
def test_ties_of_three_noisy_copies(tmp_path: Path) -> None:
    try:
        source = minilm.folder()
    except MissingExtra as missing:
        pytest.skip(str(missing))
    assert main(["run", str(ROOT / "configs/minilm.yml"), str(tmp_path / "out"), "--quiet"]) == 0
    before, after = ws.io.open_checkpoint(source), ws.io.open_checkpoint(tmp_path / "out")
    assert before.specs == after.specs and len(after) == 104
    assert after["embeddings.position_ids"].dtype == np.int64
    np.testing.assert_array_equal(after["embeddings.position_ids"], before["embeddings.position_ids"])

    weights = ("model.safetensors", ".index.json")
    files = {p.relative_to(source).as_posix(): p for p in source.rglob("*") if p.is_file() and p.name != "README.md"}
    for name, path in files.items():
        if not name.endswith(weights):
            assert (tmp_path / "out" / name).read_bytes() == path.read_bytes(), name
    assert ws.io.verify(tmp_path / "out").leaves == 104

    vocabulary = minilm.vocabulary(source)
    batch = minilm.tokenize(TEXTS, vocabulary)
    old, new = (np.asarray(minilm.encode(dict(p), *batch)) for p in (before, after))
    cosine = np.sum(old * new, axis=1)
    assert (cosine > 0.9).all() and (cosine < 0.9999).all(), cosine  # 5 % noise: changed, and still the model
    assert new[0] @ new[2] > new[0] @ new[1]  # the cat is nearer to the kitten than to the market
