"""Deleted, a notebook and the script it is paired with could drift apart, or a notebook be saved with its outputs."""

from __future__ import annotations

from pathlib import Path

import jupytext
import pytest

COLABS = sorted((Path(__file__).parents[1] / "colabs").glob("*.py"))


def test_there_is_a_colab() -> None:
    assert COLABS


@pytest.mark.parametrize("script", COLABS, ids=lambda p: p.stem)
def test_script_and_notebook_are_one(script: Path) -> None:
    """`jupytext --to ipynb colabs/NAME.py` makes the notebook anew."""
    text, notebook = jupytext.read(script), jupytext.read(script.with_suffix(".ipynb"))
    assert [(c.cell_type, c.source) for c in text.cells] == [(c.cell_type, c.source) for c in notebook.cells]
    assert not any(c.get("outputs") for c in notebook.cells)
