"""Deleted, an update could lose more right answers than it has to, or the search could return a worse model."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.average.trained import MODEL
from tests.interpolate.seed_rows import fishers
from tests.rows import like, tree
from wspace.core.errors import ShapeError, WspaceError
from wspace.data import digits, tasks
from wspace.interpolate import bcwi, lerp, negative_flip_rate, search_alpha

RNG = np.random.default_rng(0)
OLD = tree(RNG)
NEW = like(OLD, RNG)


def same(a: object, b: object) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_the_ends_are_the_models_and_equal_fishers_are_the_plain_line() -> None:
    f = fishers([OLD], RNG)
    for kind, sides in ((False, {}), (True, f)):
        same(bcwi(0.0, kind)(OLD, NEW, **sides), NEW)
        same(bcwi(1.0, kind)(OLD, NEW, **sides), OLD)
    both = {"fisher_old": f["fisher_old"], "fisher_new": f["fisher_old"]}
    got, want = bcwi(0.3, fisher=True)(OLD, NEW, **both), lerp(0.7)(OLD, NEW)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), got, want)


def test_an_entry_that_matters_to_no_model_is_on_the_line() -> None:
    zero = jax.tree.map(jnp.zeros_like, OLD)
    got = bcwi(0.3, fisher=True)(OLD, NEW, fisher_old=zero, fisher_new=zero)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), got, lerp(0.7)(OLD, NEW))


def test_fewer_answers_flip_the_more_of_the_old_model_there_is() -> None:
    """BCWI's own check, on digits: old from 200 scans, new fine-tuned from it on all."""
    images, labels = digits.load("train")
    test, truth = digits.load("test")
    start = MODEL.init(jax.random.key(3), jnp.zeros((1, 64)))
    old = tasks.train(MODEL.apply, start, images[:200], labels[:200], steps=200, lr=3e-3, key=jax.random.key(4))
    new = tasks.train(MODEL.apply, old, images, labels, steps=200, lr=3e-3, key=jax.random.key(5))
    mixed = [bcwi(alpha)(old, new) for alpha in (0.0, 0.25, 0.5, 0.75, 1.0)]
    before = MODEL.apply(old, test)
    flips = [float(negative_flip_rate(before, MODEL.apply(p, test), jnp.asarray(truth))) for p in mixed]
    right = [float(tasks.accuracy(MODEL.apply, p, test, truth)) for p in mixed]
    assert flips == sorted(flips, reverse=True) and flips[-1] == 0 and flips[0] > 0
    assert all(r >= right[-1] for r in right)


def test_flips_are_counted() -> None:
    old, new, labels = RNG.standard_normal((50, 4)), RNG.standard_normal((50, 4)), RNG.integers(0, 4, 50)
    want = sum(o.argmax() == y != n.argmax() for o, n, y in zip(old, new, labels, strict=True)) / 50
    got = negative_flip_rate(jnp.asarray(old, jnp.float32), jnp.asarray(new, jnp.float32), jnp.asarray(labels))
    assert abs(float(got) - want) < 1e-6
    with pytest.raises(ShapeError, match="give logits"):
        negative_flip_rate(jnp.zeros((3, 2)), jnp.zeros((3, 2)), jnp.zeros(2, jnp.int32))


def test_the_search_takes_the_largest_share_that_costs_nothing() -> None:
    """The score of t is a parabola with its top at 0.3: it is back at its start at 0.6."""
    a, b = {"t": jnp.array(1.0)}, {"t": jnp.array(0.0)}
    found = search_alpha(lambda p: -abs(float(p["t"]) - 0.3), a, b, [0.2, 0.5, 0.59, 0.7])
    assert found.alpha == 0.59 and found.alphas.tolist() == [0.0, 0.2, 0.5, 0.59, 0.7]
    assert search_alpha(lambda p: -float(p["t"]), a, b).alpha == 0.0
    with pytest.raises(WspaceError, match=r"from 0\.0 to 1\.5"):
        search_alpha(lambda p: 0.0, a, b, [1.5])
