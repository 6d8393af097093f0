"""Deleted, a soup could end below its best member, lose a leaf, or have an error decomposition that does not add up."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.average.trained import MODEL, accuracy, batches, child, moved, shifted
from tests.average.trained import loss as whole
from wspace.average import bvcl, error_diversity, greedy_soup, learned_soup, ratatouille, uniform_soup, weighted_average
from wspace.core.errors import NonFinite, ShapeError, TreeMismatch
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
    no_worse = greedy_soup(trees, lambda p: 1.0, [3.0, 2.0, 1.0])
    assert no_worse.kept == (0,)  # 1 is less than 3 alone
    assert greedy_soup(trees, lambda p: 1.0).kept == (0, 1, 2)  # a mean that scores the same is kept
    with pytest.raises(ShapeError, match="3 trees and 2 scores"):
        greedy_soup(trees, lambda p: 0.0, [1.0, 2.0])


def test_a_model_that_diverged_is_not_what_greedy_begins_with() -> None:
    trees = [{"w": jnp.float32(x)} for x in (9.0, 1.0, 4.0)]

    def score(p: Any) -> float:
        return float("nan") if float(p["w"]) > 4.5 else -abs(float(p["w"]) - 3)

    for scores in (None, [float("nan"), -2.0, -1.0]):
        soup = greedy_soup(trees, score, scores)
        assert soup.kept == (2, 1) and float(soup.params["w"]) == 2.5
    with pytest.raises(NonFinite, match="none of 1 trees"):
        greedy_soup(trees[:1], score)


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


@pytest.mark.parametrize("scope", ["tree", "leaf"])
def test_a_learned_soup_is_better_than_the_uniform_one_on_what_it_learned_from(scope: Any) -> None:
    """Two children of one base and one of shifted scans, which the uniform soup can't leave out."""
    trees, data = [child(0), child(1), moved()], batches(60)

    def loss(params: Any, batch: Any, beta: jax.Array) -> jax.Array:
        scans, labels = batch
        return optax.softmax_cross_entropy_with_integer_labels(beta * MODEL.apply(params, scans), labels).mean()

    soup = learned_soup(loss, trees, data, scope=scope)
    assert whole(soup.params) < whole(uniform_soup()(*trees))
    weights = jax.tree.leaves(soup.values["weights"])
    assert len(weights) == (1 if scope == "tree" else 6)
    for w in weights:
        np.testing.assert_allclose(w.sum(), 1, rtol=1e-6)
        assert (w >= 0).all()


def test_a_learned_soup_finds_its_weights_and_the_temperature() -> None:
    """A mean of three vectors and a scale of it, that a loss names; the optimum is inside the simplex."""
    trees = [{"w": jnp.asarray(RNG.standard_normal(20), jnp.float32)} for _ in range(3)]
    want = 1.7 * sum(a * t["w"] for a, t in zip((0.2, 0.5, 0.3), trees, strict=True))

    def loss(params: Any, target: jax.Array, beta: jax.Array) -> jax.Array:
        return jnp.mean((beta * params["w"] - target) ** 2)

    soup = learned_soup(loss, trees, want[None], optax.adam(0.05), steps=600)
    np.testing.assert_allclose(soup.values["weights"], (0.2, 0.5, 0.3), atol=2e-3)
    np.testing.assert_allclose(soup.values["beta"], 1.7, atol=1e-2)
    with pytest.raises(ShapeError, match="scope='row'"):
        learned_soup(loss, trees, want[None], scope="row")  # type: ignore[arg-type]
