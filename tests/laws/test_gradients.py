"""Deleted, a coefficient could have a gradient that is NaN or wrong, or a sweep over it differ from a loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wspace as ws
from tests.rows import ROWS, Row
from wspace.app.catalog import SMOOTH, Method, catalog

STEP = 1e-5
SMOOTH_ROOMS = [r for r in ROWS if r.name.partition(".")[0] in SMOOTH]


def described(row: Row) -> Method:
    return catalog()[row.name.partition("(")[0]]


def differentiable(row: Row) -> list[str]:
    """The arguments that the row varies and the docstring calls smooth."""
    return [name for name in row.numeric if name in described(row).differentiable]


def small(row: Row) -> Callable[[Any], Any]:
    """A scalar of the method's result on a small leaf of doubles, as a function of its numeric arguments."""
    rng = np.random.default_rng(7)
    weigh, *draws = (jnp.asarray(rng.standard_normal((4, 3))) for _ in range(row.trees + 1))
    trees, given = row.given(tuple({"dense": {"kernel": w}} for w in draws), rng)

    def scalar(numbers: Any) -> Any:
        made = ws.materialize(row.transform(**numbers)(*trees, **given))
        return jnp.vdot(weigh, made["dense"]["kernel"])

    return scalar


def sweep(row: Row) -> tuple[Any, list[Any]]:
    """The arguments to begin with, and for each of them two more values, the others as they were."""
    first = {name: row.settings.get(name, value) for name, value in row.numeric.items()}
    moved = []
    for name, value in row.numeric.items():
        for share in (0.5, 1.0):
            moved.append({**first, name: jax.tree.map(lambda a, b, s=share: a + s * (b - a), first[name], value)})
    return first, moved


@pytest.mark.parametrize("row", [r for r in SMOOTH_ROOMS if r.numeric], ids=str)
def test_gradients_are_finite_differences_and_a_sweep_is_a_loop(row: Row) -> None:
    with jax.enable_x64(True):
        function = small(row)
        first, moved = sweep(row)
        order = jax.tree.structure(first)
        names = [name for name in sorted(first) for _ in jax.tree.leaves(first[name])]
        points = np.array([jax.tree.leaves(p) for p in (first, *moved)], np.float64)
        smooth = [i for i, name in enumerate(names) if name in differentiable(row)]
        beside = [points[0] + side * STEP * np.eye(len(names))[i] for i in smooth for side in (1, -1)]

        def scalar(x: Any) -> Any:
            return function(jax.tree.unflatten(order, list(x)))

        together = jax.jit(jax.vmap(jax.value_and_grad(scalar)))
        values, slopes = (np.asarray(x) for x in together(np.array([*points, *beside])))
        wanted = -np.diff(values[len(points) :].reshape(-1, 2))[:, 0] / (2 * STEP)
        assert np.isfinite(slopes).all()
        np.testing.assert_allclose(slopes[0][smooth], wanted, rtol=1e-6, atol=1e-7 * np.abs(values).max())
        alone = jax.jit(scalar)
        np.testing.assert_allclose(values[: len(points)], [alone(x) for x in points], rtol=1e-10, atol=1e-10)


def test_docstrings_say_of_every_numeric_argument_whether_it_has_a_gradient_and_the_law_tries_all() -> None:
    """They are what `wspace methods` shows and what the law above goes by."""
    silent = {row.name: row.numeric.keys() - described(row).traced.keys() for row in SMOOTH_ROOMS}
    assert {name: missing for name, missing in silent.items() if missing} == {}
    tried = {(described(row).name, name) for row in SMOOTH_ROOMS for name in row.numeric}
    assert {(m.name, name) for m in catalog().values() for name in m.differentiable} - tried == set()
