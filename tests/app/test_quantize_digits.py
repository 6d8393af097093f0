"""Deleted, BitsFusion's rows of configs/quantize_digits.py could be of other bits than they say, or no longer run."""

from __future__ import annotations

import runpy
from pathlib import Path

import jax
import numpy as np
import pytest

from wspace.data import digits, tasks

pytest.importorskip("sklearn")
CONFIG = runpy.run_path(str(Path(__file__).parents[2] / "configs/quantize_digits.py"))


def test_bitsfusion_has_its_rows_of_the_docstring_and_fewer_than_two_bits() -> None:
    model, keys = tasks.classifier(16), jax.random.split(jax.random.key(0), 3)
    start = model.init(keys[0], np.zeros((1, 64), np.float32))
    params = tasks.train(model.apply, start, *digits.load("train"), steps=60, lr=1e-2, key=keys[0])
    rows = CONFIG["bitsfusion"](model.apply, params, 60, *keys[1:])
    said = [line[4:24].strip() for line in CONFIG["__doc__"].splitlines() if "% (" in line]
    assert [*rows] == said[-3:]
    accuracy, turns, bits = np.array([*rows.values()]).T
    np.testing.assert_allclose(bits, np.log2(3))  # its one inner matrix: 1 bit and the level more, as 2.32 are too many
    assert accuracy[2] > accuracy[0] and turns[2] >= 0  # rounded to three levels, and trained on them
