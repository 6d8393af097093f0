"""Deleted, the maps of a merge report could show other angles, or call friendly task vectors hostile."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import wspace as ws
from tests.measure.test_plane import flat, trees
from wspace.core.errors import ShapeError


def test_cosines_are_those_of_the_flat_task_vectors() -> None:
    base, *models = trees(4)
    deltas = [flat(m) - flat(base) for m in models]
    wanted = [[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in deltas] for a in deltas]
    np.testing.assert_allclose(ws.measure.cosines(models, base), wanted, atol=1e-6)


def test_interference_counts_what_an_addition_loses() -> None:
    base, *models = trees(3)
    found = ws.measure.interference(models, base)
    assert set(found) == {"w", "b"}
    for name in found:
        a, b = (np.asarray(m[name], np.float64) - np.asarray(base[name], np.float64) for m in models)
        lost = 1 - np.abs(a + b).sum() / (np.abs(a).sum() + np.abs(b).sum())
        np.testing.assert_allclose(found[name], [[0, lost], [lost, 0]], atol=1e-6)


def test_a_model_that_does_not_move_has_no_angle() -> None:
    base: Any = {"w": jnp.zeros(2)}
    other = {"w": jnp.ones(2)}
    assert np.isnan(ws.measure.cosines([base, other], base)).tolist() == [[True, True], [True, False]]
    assert np.isnan(ws.measure.interference([base, base], base)["w"]).all()
    with pytest.raises(ShapeError, match="no model"):
        ws.measure.cosines([], base)
