"""Deleted, coefficients could leave their limits, belong to other leaves, or not be what the loss asks for."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wspace as ws
from tests.average.trained import MODEL, accuracy, batches, on_parts
from tests.rows import like, tree
from wspace.core.errors import SelectionError, ShapeError, WspaceError
from wspace.merge import adamerging, dare, darex, darex_q, task_arithmetic
from wspace.objectives import entropy, top_logits

RNG = np.random.default_rng(0)
BASE = tree(RNG)
A, B = like(BASE, RNG), like(BASE, RNG)


def undecided(params: Any, scans: jax.Array) -> jax.Array:
    return entropy(MODEL.apply(params, scans))


@pytest.mark.parametrize("scope", ["tree", "leaf"])
def test_less_entropy_on_scans_without_labels_is_more_accuracy(scope: Any) -> None:
    """The paper's claim, on digits: from task arithmetic at 0.3 up, with coefficients that no label has chosen."""
    base, tuned = on_parts()
    scans = batches(100)[0]
    found = adamerging(undecided, base, tuned, scans, optax.adam(1e-2), scope=scope, steps=200)
    assert found.losses[-20:].mean() < 0.7 * found.losses[:20].mean()
    assert accuracy(found.params) > accuracy(task_arithmetic(lam=0.3)(*tuned, base=base)) + 0.01
    for x in jax.tree.leaves(found.values):
        assert x.shape == (3,) and ((x >= 0) & (x <= 1)).all()


def far(params: Any, target: Any) -> jax.Array:
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(target), strict=True)
    return sum(jnp.sum((x - y) ** 2) for x, y in pairs if x.dtype == jnp.float32)


def test_every_leaf_learns_the_coefficients_it_was_made_with() -> None:
    """The optimum of a quadratic is known; one coefficient of it is out of the limits and has to stop there."""
    want = {"kernel": (0.2, 0.9), "bias": (0.7, 0.0), "layers": (0.1, 0.6)}
    made = {k: task_arithmetic(w)(A, B, base=BASE) for k, w in {**want, "bias": (0.7, -0.4)}.items()}
    target = {**BASE, "layers": made["layers"]["layers"]}
    target["dense"] = {k: made[k]["dense"][k] for k in ("kernel", "bias")}
    stacked = jax.tree.map(lambda x: x[None], target)
    found = adamerging(far, BASE, [A, B], stacked, optax.adam(0.02), steps=600)
    got = {**found.values["dense"], "layers": found.values["layers"]["kernel"]}
    for name in ("kernel", "layers"):
        np.testing.assert_allclose(got[name], want[name], atol=2e-3)
    assert got["bias"][1] == 0 and found.values["step"] is None
    again = ws.by_leaf(task_arithmetic, jnp.zeros(2))(A, B, base=BASE, values=found.values)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6), again, found.params)
    with pytest.raises(ShapeError, match="got 0 trees"):
        adamerging(far, BASE, [], stacked)


def test_a_learned_q_keeps_the_answers_that_dare_loses() -> None:
    """The paper's claim, on digits: of a task vector with 5 % of its entries left, by an order of magnitude."""
    base, (tuned, *_) = on_parts()
    scans, key = batches(100)[0], jax.random.key(0)

    def matched(params: Any, tuned: Any, scans: jax.Array) -> jax.Array:
        return top_logits(MODEL.apply(params, scans), MODEL.apply(tuned, scans))

    found = darex_q(matched, base, tuned, scans, 0.05, optax.adam(1e-2), key=key, steps=300)
    lost = ws.on(ws.matrices, dare(0.05))(tuned, base=base, key=key)
    assert matched(found.params, tuned, scans[0]) < 0.3 * matched(lost, tuned, scans[0])
    assert accuracy(found.params) > accuracy(lost) + 0.05
    q = jax.tree.leaves(found.values)
    assert len(q) == 3 and all(x >= 0.05 for x in q)  # kernels alone
    for layer in ("hidden0", "hidden1", "out"):
        np.testing.assert_array_equal(found.params["params"][layer]["bias"], tuned["params"][layer]["bias"])


def test_the_learned_q_is_the_one_of_darex_with_the_same_masks() -> None:
    def zero(params: Any, tuned: Any, batch: Any) -> jax.Array:
        return jnp.sum(params["dense"]["kernel"]) * 0

    key = jax.random.key(2)
    found = darex_q(zero, BASE, A, None, 0.3, optax.sgd(0.1), key=key, where="dense/kernel", steps=1)
    np.testing.assert_allclose(found.values["dense"]["kernel"], 0.3 + 1e-4, rtol=1e-6)
    want = darex(0.3, q=0.3 + 1e-4)(A, base=BASE, key=key)["dense"]["kernel"]
    np.testing.assert_allclose(found.params["dense"]["kernel"], want, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.params["layers"]["kernel"], A["layers"]["kernel"])

    def larger(params: Any, tuned: Any, batch: Any) -> jax.Array:
        return -jnp.sum((params["dense"]["kernel"] - BASE["dense"]["kernel"]) ** 2)

    found = darex_q(larger, BASE, A, None, 0.3, optax.sgd(1e-6), key=key, where="dense/kernel", steps=20)
    assert 0.3 <= found.values["dense"]["kernel"] < 0.31  # the slope points below the q of DARE, which is the least
    with pytest.raises(WspaceError, match="a probability above 0"):
        darex_q(zero, BASE, A, None, 0.0, key=key, steps=1)
    with pytest.raises(SelectionError, match="matches none"):
        darex_q(zero, BASE, A, None, 0.3, key=key, where="nothing", steps=1)
