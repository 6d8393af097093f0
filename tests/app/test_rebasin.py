"""Deleted, the page of the matching experiment could lose its table, its curves or its check unnoticed."""

from __future__ import annotations

import runpy
from pathlib import Path

import jax
import pytest

from tests.match.nets import pair
from wspace.app.report import page

REBASIN = Path(__file__).parents[2] / "configs" / "rebasin.py"


def test_the_page_has_table_curves_groups_and_check() -> None:
    pytest.importorskip("matplotlib")
    config = runpy.run_path(str(REBASIN), run_name="rebasin")
    model, (a, b), axes = pair(64)
    found = config["compare"](model, a, b, jax.random.key(0))
    trained, matched = (found.rows[state] for state in ("as trained", "matched"))
    assert matched.path.value < trained.path.value and matched.distance < trained.distance
    parts = dict(config["sections"]({"net": found}, (0, 1)))
    (table,), (figure, checked, groups) = parts["Seeds 0 and 1"], parts["net"]
    assert table.rows[1] == ("net", "matched", *matched.words) and matched.words[0] == f"{matched.path.value:.3f}"
    assert figure.svg.startswith("<svg") and f"{found.change:.1e}" in checked.text
    assert [row[0] for row in groups.rows] == list(axes.groups)
    html = page("Two", "lead", list(parts.items()))
    assert html.count("<svg") == 1 and html.count("<table") == 2 and "https://" not in html
