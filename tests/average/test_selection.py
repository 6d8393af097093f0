"""Deleted, a soup could end below its best member, lose a leaf, or have an error decomposition that does not add up."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.average.trained import accuracy, child, shifted
from wspace.average import bvcl, error_diversity, greedy_soup, ratatouille, uniform_soup, weighted_average
from wspace.core.errors import ShapeError, TreeMismatch
from wspace.data import digits

RNG = np.random.default_rng(0)


def tree(**more: object) -> dict[str, object]:
    return {"w": jnp.asarray(RNG.standard_normal((4, 3)), jnp.float32), **more}


def test_a_leaf_of_the_first_tree_alone_survives_bit_exactly() -> None:
    head = jnp.asarray(RNG.standard_normal(5), jnp.bfloat16)
    a, b, c = tree(head=head), tree(tail=jnp.ones(2)), tree()
    got = weighted_average([a, b, c], (0.2, 0.5, 0.3))
    assert got.keys() == {"w", "head"}
    np.testing.assert_array_equal(got["head"], head)
    want = 0.2 * np.float64(a["w"]) + 0.5 * np.float64(b["w"]) + 0.3 * np.float64(c["w"])
    np.testing.assert_allclose(got["w"], want, rtol=1e-5, atol=1e-6)


def test_a_leaf_that_one_of_three_lacks_is_filled_from_the_first() -> None:
    a, b, c = ({"w": jnp.float32(x)} for x in (1.0, 2.0, 4.0))
    got = weighted_average([{"v": a["w"], **a}, b, {"v": c["w"], **c}], (0.5, 0.25, 0.25))
    assert float(got["v"]) == 0.75 * 1 + 0.25 * 4
    with pytest.raises(TreeMismatch, match="trees 1 and 2 do not both have v"):
        weighted_average([{"v": a["w"], **a}, b], on_missing="refuse")
    same = weighted_average([a, a], (0.25, 0.75))
    np.testing.assert_array_equal(same["w"], a["w"])
    with pytest.raises(ShapeError, match="at least one tree"):
        weighted_average([])


def test_ratatouille_tunes_every_model_on_the_target_before_it_averages() -> None:
    """The squaring does not commute with the mean, so the order shows."""
    a, b = {"w": jnp.float32(1)}, {"w": jnp.float32(3)}
    assert float(ratatouille([a, b], lambda p: {"w": p["w"] ** 2})["w"]) == 5.0


def test_greedy_never_ends_below_the_best_single_and_its_score_is_that_of_its_model() -> None:
    images, _ = digits.load("test")
    trees = [child(seed) for seed in range(3)]
    moved = shifted(images)
    singles = [accuracy(p, moved) for p in trees]
    soup = greedy_soup(trees, lambda p: accuracy(p, moved))
    assert soup.score >= max(singles) and soup.kept[0] == int(np.argmax(singles))
    assert soup.score == accuracy(soup.params, moved)
    again = uniform_soup()(*[trees[i] for i in soup.kept])
    jax.tree.map(np.testing.assert_array_equal, soup.params, again)


def test_greedy_by_hand() -> None:
    """From 4, adding 1 gives 2.5, nearer to 3; adding 7 to those gives 4, farther."""
    trees = [{"w": jnp.float32(x)} for x in (1.0, 7.0, 4.0)]
    soup = greedy_soup(trees, lambda p: -abs(float(p["w"]) - 3))
    assert soup.kept == (2, 0) and float(soup.params["w"]) == 2.5 and soup.score == -0.5
    with pytest.raises(ShapeError, match="3 trees and 2 scores"):
        greedy_soup(trees, lambda p: 0.0, [1.0, 2.0])


def test_diversity_counts_pairs() -> None:
    predictions, labels = RNG.integers(0, 3, (4, 200)), RNG.integers(0, 3, 200)
    got = error_diversity(jnp.asarray(predictions), jnp.asarray(labels))
    for i in range(4):
        for j in range(4):
            a, b = predictions[i], predictions[j]
            alike = sum(x == z != y for x, y, z in zip(a, labels, b, strict=True))
            different = sum(x != z for x, y, z in zip(a, labels, b, strict=True))
            assert abs(float(got[i, j]) - different / alike) < 1e-5


def test_the_parts_of_the_error_add_up_and_are_the_textbooks() -> None:
    runs, m, n, c = 5, 4, 6, 3
    f, y = RNG.standard_normal((runs, m, n, c)) + 0.3, RNG.standard_normal((n, c))
    trees = [{"w": jnp.float32(x)} for x in (0.0, 1.0, 5.0)]
    got = bvcl(jnp.asarray(f, jnp.float32), jnp.asarray(y, jnp.float32), trees)
    cov = np.zeros((m, m))
    for i in range(m):
        for j in range(m):
            cov[i, j] = np.mean(np.sum((f[:, i] - f[:, i].mean(0)) * (f[:, j] - f[:, j].mean(0)), axis=-1))
    off = (cov.sum() - np.trace(cov)) / (m * (m - 1))
    np.testing.assert_allclose([got.variance, got.covariance], [np.trace(cov) / m, off], rtol=1e-4, atol=1e-5)
    total = got.bias + got.variance / m + (m - 1) / m * got.covariance
    np.testing.assert_allclose([total, got.error], np.mean(np.sum((f.mean(1) - y) ** 2, axis=-1)), rtol=1e-5)
    assert float(got.locality) == 9.0
