"""Deleted, a search without gradients could depend on chance, lose the best it saw, or not adapt to the problem."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.average.trained import accuracy, on_parts
from wspace.core.errors import ShapeError, WspaceError
from wspace.data import digits
from wspace.merge import evolve, task_arithmetic, ties
from wspace.merge.evolve import _Search

KEY = jax.random.key(0)


def identity(values: Any) -> Any:
    return lambda: values


def test_it_learns_the_shape_of_a_rotated_and_stretched_valley() -> None:
    """Plain descent on axes of 1 : 1000 would need thousands of steps; the covariance learns them."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    wanted = rng.standard_normal(4)

    def score(x: Any) -> float:
        return -float(np.sum(10.0 ** np.arange(0, 4) * (turn @ (np.asarray(x) - wanted)) ** 2))

    found = evolve(identity, np.zeros(4), score, [], key=KEY, generations=120, sigma=0.5)
    np.testing.assert_allclose(found.values, wanted, atol=1e-3)
    assert found.scores.shape == (120, 8) and found.score == found.scores.max()


def test_steps_are_those_of_the_tutorial() -> None:
    """One generation of two numbers by hand, from the equations with C itself instead of its root."""
    start = _Search.begin(np.array([1.0, -1.0]), 0.5, 6)
    draws = np.random.default_rng(1).standard_normal((6, 2))
    ranked = start.candidates(draws)
    got = start.moved(ranked, 0)
    w = np.log(3.5) - np.log([1, 2, 3])
    w /= w.sum()
    mu = 1 / (w @ w)
    y = sum(a * z for a, z in zip(w, draws[:3], strict=True))
    cs, cc = (mu + 2) / (mu + 7), (4 + mu / 2) / (6 + mu)
    c1 = 2 / (3.3**2 + mu)
    cm = 2 * (mu - 2 + 1 / mu) / (16 + mu)
    ps, pc = np.sqrt(cs * (2 - cs) * mu) * y, np.sqrt(cc * (2 - cc) * mu) * y
    typical = np.sqrt(2) * (1 - 1 / 8 + 1 / 84)
    length = np.linalg.norm(ps)
    assert length / np.sqrt(1 - (1 - cs) ** 2) < (1.4 + 2 / 3) * typical  # else this seed shows another branch
    best = sum(a * np.outer(z, z) for a, z in zip(w, draws[:3], strict=True))
    c = (1 - c1 - cm) * np.eye(2) + c1 * np.outer(pc, pc) + cm * best
    damp = 1 + 2 * max(0, np.sqrt((mu - 1) / 3) - 1) + cs
    np.testing.assert_allclose(got.mean, start.mean + 0.5 * y)
    np.testing.assert_allclose(got.scale, 0.5 * np.exp(cs / damp * (length / typical - 1)))
    np.testing.assert_allclose(got.root @ got.root, c)


@pytest.mark.parametrize(("n", "population"), [(2, 6), (3, 40), (5, 8)])
def test_later_generations_are_the_tutorials_too(n: int, population: int) -> None:
    """With the covariance itself and its eigenvectors, where paths and shape have left their beginnings. The score is
    linear for a while, so that long paths (h_sigma = 0) come up, and random else; 40 draws make the damping larger."""
    rng = np.random.default_rng(n)
    search = _Search.begin(rng.standard_normal(n), 0.5, population)
    mean, scale, c, ps, pc = search.mean, 0.5, np.eye(n), np.zeros(n), np.zeros(n)
    half = population // 2
    w = np.log((population + 1) / 2) - np.log(np.arange(1, half + 1))
    w /= w.sum()
    mu = 1 / np.sum(w**2)
    cs, cc = (mu + 2) / (n + mu + 5), (4 + mu / n) / (n + 4 + 2 * mu / n)
    c1 = 2 / ((n + 1.3) ** 2 + mu)
    cm = min(1 - c1, 2 * (mu - 2 + 1 / mu) / ((n + 2) ** 2 + mu))
    damp = 1 + 2 * max(0, np.sqrt((mu - 1) / (n + 1)) - 1) + cs
    typical = np.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n**2))
    long = []
    for g in range(9):
        tried = search.candidates(rng.standard_normal((population, n)))
        ranked = tried[np.argsort(-tried[:, 0] if 2 < g < 6 else rng.random(population))]
        search = search.moved(ranked, g)
        y = (ranked[:half] - mean) / scale
        values, axes = np.linalg.eigh(c)
        step = w @ y
        ps = (1 - cs) * ps + np.sqrt(cs * (2 - cs) * mu) * axes @ ((axes.T @ step) / np.sqrt(values))
        length = np.linalg.norm(ps)
        calm = length / np.sqrt(1 - (1 - cs) ** (2 * (g + 1))) < (1.4 + 2 / (n + 1)) * typical
        long.append(not calm)
        pc = (1 - cc) * pc + calm * np.sqrt(cc * (2 - cc) * mu) * step
        c = (1 + c1 * (1 - calm) * cc * (2 - cc) - c1 - cm) * c + c1 * np.outer(pc, pc)
        c = c + cm * sum(a * np.outer(z, z) for a, z in zip(w, y, strict=True))
        mean, scale = mean + scale * step, scale * np.exp(cs / damp * (length / typical - 1))
        np.testing.assert_allclose(search.mean, mean, rtol=1e-9)
        np.testing.assert_allclose(search.scale, scale, rtol=1e-9)
        np.testing.assert_allclose(search.root @ search.root, c, rtol=1e-8, atol=1e-10)
    assert not all(long) and (any(long) or population < 40)


def test_the_same_key_is_the_same_search_and_the_start_is_a_floor() -> None:
    trees = [{"w": jnp.array([1.0, 0.0])}, {"w": jnp.array([0.0, 1.0])}]
    base = {"w": jnp.zeros(2)}

    def score(params: Any) -> float:
        return float("nan") if params["w"][0] > 0.5 else -float(jnp.sum((params["w"] - 0.4) ** 2))

    keys = [jax.random.key(k) for k in (1, 1, 2)]
    runs = [evolve(task_arithmetic, (0.3, 0.3), score, trees, key=k, generations=4, base=base) for k in keys]
    np.testing.assert_array_equal(runs[0].scores, runs[1].scores)
    assert (runs[0].scores != runs[2].scores).any()
    assert all(r.score >= score({"w": jnp.full(2, 0.3)}) for r in runs)
    assert score(runs[0].params) == runs[0].score
    np.testing.assert_allclose(runs[0].params["w"], jnp.stack(runs[0].values), rtol=1e-6)
    flat = evolve(identity, (0.3, 0.1), lambda p: 1.0, [], key=KEY, generations=2)
    np.testing.assert_allclose(jnp.stack(flat.values), (0.3, 0.1), rtol=1e-6)  # nothing was better


def test_accuracy_rises_by_parameters_that_have_no_gradient() -> None:
    """The density of TIES and its scale, on digits, by accuracy on training scans."""
    base, tuned = on_parts()
    scans, labels = digits.load("train")
    told: list[str] = []

    def merged(values: Any) -> Any:
        return ties(density=jnp.clip(values["density"], 0, 1), lam=values["lam"])

    def score(params: Any) -> float:
        return accuracy(params, scans, labels)

    start = {"density": 0.2, "lam": 0.4}
    found = evolve(
        merged, start, score, tuned, key=KEY, generations=6, progress=lambda *x: told.append(x[2]), base=base
    )
    assert found.score > score(merged(start)(*tuned, base=base)) + 0.01
    assert accuracy(found.params) > accuracy(merged(start)(*tuned, base=base))
    assert len(told) == 6 and told[-1] == f"best {found.score:.4g}"


def test_misuse_is_named() -> None:
    with pytest.raises(ShapeError, match="0 numbers"):
        evolve(identity, {}, lambda p: 0.0, [], key=KEY)
    with pytest.raises(ShapeError, match="generations of 1;"):
        evolve(identity, 1.0, lambda p: 0.0, [], key=KEY, population=1)
    with pytest.raises(WspaceError, match=r"sigma is 0\.0"):
        evolve(identity, 1.0, lambda p: 0.0, [], key=KEY, sigma=0.0)
