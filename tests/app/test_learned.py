"""Deleted, configs/learned.py could stop running, and its table grow old unseen."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np

CONFIG = runpy.run_path(str(Path(__file__).parents[2] / "configs/learned.py"))


def test_a_tiny_run_has_every_row_of_the_docstring() -> None:
    rows = CONFIG["run"](0, share=0.02)
    said = [line[4:30].strip() for line in (CONFIG["__doc__"] or "").splitlines() if line.startswith("    ")]
    assert [*rows] == said[1:]  # after the command
    assert np.isfinite(list(rows.values())).all()
    assert rows["one fine-tune"] > 80 and rows["barrier, line"] > 0.3  # nets that were trained, apart from each other
