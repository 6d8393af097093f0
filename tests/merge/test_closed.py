"""Deleted, Fisher means, medians, masks and elected vectors could lose the identities their papers define them by."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.merge.seed_rows import positive
from tests.rows import close, like, tree, weights
from wspace import merge
from wspace.core.containers import as_params
from wspace.core.errors import ShapeError, SideTreeError, WspaceError
from wspace.core.implicit import is_implicit
from wspace.merge.uncertainty import uncertainty_array, uncertainty_full_array

RNG = np.random.default_rng(0)
BASE = tree(RNG)
A, B, C = (like(BASE, RNG) for _ in range(3))
F, G = positive(BASE, RNG), positive(BASE, RNG)
SHARES = (1.0, 0.9, 0.8)
ZERO = jax.tree.map(jnp.zeros_like, BASE)


def near(got: Any, want: Any, tolerance: float = 2e-6) -> None:
    close(got, weights(want), tolerance)


def whole(t: Any) -> np.ndarray:
    return np.concatenate([x.ravel() for _, x in sorted(weights(t).items())])


def test_fisher_is_the_mean_where_models_are_equally_sure_and_the_minimum_of_their_quadratics() -> None:
    near(merge.fisher((0.3, 0.6))(A, B, fisher=(F, F)), merge.weighted_sum((1 / 3, 2 / 3))(A, B))
    near(merge.fisher()(A, B, fisher=(ZERO, ZERO)), merge.weighted_sum((0.5, 0.5))(A, B))
    near(merge.fisher(floor=0.0)(A, B, fisher=(ZERO, ZERO)), merge.weighted_sum((0.5, 0.5))(A, B))
    near(merge.fisher(floor=0.0)(A, B, fisher=(ZERO, F)), B)
    near(
        merge.fisher()(A, B, fisher=(F, G)),
        merge.uncertainty(delta0=0.0)(A, B, base=BASE, fisher=(F, G), base_fisher=ZERO),
        1e-5,
    )
    scaled = jax.tree.map(lambda f: 1000 * f if f.dtype == jnp.float32 else f, F)
    near(merge.fisher(normalize=True)(A, B, fisher=(scaled, F)), merge.weighted_sum((0.5, 0.5))(A, B))

    def loss(x: jax.Array) -> jax.Array:
        pairs = ((A, F), (B, G))
        return sum(jnp.sum(f["dense"]["kernel"] * (x - m["dense"]["kernel"]) ** 2) for m, f in pairs)

    best = merge.fisher()(A, B, fisher=(F, G))["dense"]["kernel"]
    assert jnp.max(jnp.abs(jax.grad(loss)(best))) < 1e-5 * jnp.max(jnp.abs(jax.grad(loss)(A["dense"]["kernel"])))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_with_whole_hessians_uncertainty_is_the_optimum_of_all_quadratic_tasks_at_once(dtype: Any) -> None:
    """The paper's theorem. Fine-tunes are anchored at the base; the joint optimum is found from the gradient alone."""
    size, shares = 6, np.array([1.0, 0.5, 0.8])
    prior, *curved = (x @ x.T + 0.1 * np.eye(size) for x in RNG.standard_normal((4, size, size)))
    base, *centers = RNG.standard_normal((4, size))
    tuned = [np.linalg.solve(h + prior, h @ c + prior @ base) for h, c in zip(curved, centers, strict=True)]
    pull = sum(a * h @ c for a, h, c in zip(shares, curved, centers, strict=True))
    joint = np.linalg.solve(prior + np.tensordot(shares, curved, 1), pull + prior @ base)
    with jax.enable_x64(dtype == jnp.float64):
        whole, deltas, h0 = ([jnp.asarray(x, dtype) for x in y] for y in (curved, np.array(tuned) - base, [prior]))
        got = base + np.asarray(uncertainty_full_array(deltas, whole, h0[0], jnp.asarray(shares, dtype), 0.0))
        diagonals = [jnp.diagonal(h) for h in whole]
        flat = uncertainty_array(deltas, diagonals, jnp.diagonal(h0[0]), jnp.asarray(shares, dtype), 0.0)
    error = np.linalg.norm(got - joint)
    assert error < (1e-12 if dtype == jnp.float64 else 1e-4) * np.linalg.norm(joint)
    assert np.linalg.norm(base + np.asarray(flat) - joint) > 0.1 * np.linalg.norm(joint)  # diagonals are not enough


def test_a_side_tree_for_each_model_is_asked_for_by_name() -> None:
    with pytest.raises(SideTreeError, match="'fisher' is one tree"):
        merge.fisher()(A, B, fisher=F)
    with pytest.raises(SideTreeError, match=r"'fisher' of model 2 has nothing for dense/bias \(8,\)"):
        merge.fisher()(A, B, fisher=(F, {**G, "dense": {"kernel": G["dense"]["kernel"]}}))


@pytest.mark.parametrize("scope", ["leaf", "tree"])
def test_a_median_has_no_slope_and_is_where_most_models_are(scope: Any) -> None:
    got = merge.geometric_median(SHARES, scope=scope)(A, B, C)
    part = whole if scope == "tree" else lambda t: weights(t)["layers/kernel"]
    pulls = [
        w * (part(got) - part(m)) / np.linalg.norm(part(got) - part(m)) for w, m in zip(SHARES, (A, B, C), strict=True)
    ]
    assert np.linalg.norm(sum(pulls)) < 1e-5
    far = jax.tree.map(lambda x: x + 100 if x.dtype == jnp.float32 else x, C)
    near(merge.geometric_median(scope=scope)(A, A, far), A, 1e-5)
    moved = [merge.weighted_sum((1.0, -1.0))(m, BASE) for m in (A, B, C)]
    near(
        merge.weighted_sum()(merge.geometric_median(scope=scope)(*moved), BASE),
        merge.geometric_median(scope=scope)(A, B, C),
        5e-6,
    )
    with pytest.raises(WspaceError, match="scope"):
        merge.geometric_median(scope="layer")  # type: ignore[arg-type]


def test_consensus_goes_from_task_arithmetic_to_the_base() -> None:
    near(merge.consensus(least=0, lam=0.3)(A, B, base=BASE), merge.task_arithmetic(lam=0.3)(A, B, base=BASE))
    near(merge.consensus(least=3)(A, B, base=BASE), BASE)
    near(merge.consensus(least=0, multi=merge.elect())(A, B, base=BASE), merge.ties(density=1.0)(A, B, base=BASE))
    kept = [np.count_nonzero(whole(merge.consensus(0.8, least=k)(A, B, C, base=BASE)) - whole(BASE)) for k in range(5)]
    assert kept[0] > kept[1] > kept[2] > kept[3] > kept[4] == 0
    with pytest.raises(ShapeError, match="one pass"):
        merge.consensus(multi=merge.drop(0.5))


def test_emr_brings_a_lone_task_back_and_keeps_sign_and_length_of_each() -> None:
    alone = merge.emr()(A, base=BASE)
    near(merge.modulate()(A, base=BASE, unified=alone), A)
    unified = merge.emr()(A, B, C, base=BASE)
    for model in (A, B, C):
        task = merge.modulate()(model, base=BASE, unified=unified)
        own, got = whole(model) - whole(BASE), whole(task) - whole(BASE)
        assert np.all(own * got >= 0) and 0 < np.count_nonzero(got) < got.size
        np.testing.assert_allclose(np.abs(got).sum(), np.abs(own).sum(), rtol=1e-5)
        assert task["dense"]["kernel"].unified is unified["dense"]["kernel"]  # shared, not copied
        assert task["dense"]["kernel"].base is BASE["dense"]["kernel"]
        nodes = [
            leaf for _, leaf in sorted(as_params(task).leaves.items(), key=str) if isinstance(leaf, merge.Modulated)
        ]
        masked = np.concatenate([np.where(x.mask, x.unified, 0).ravel() for x in nodes])
        assert np.sum((own - masked) ** 2) < np.sum((own - whole(unified)) ** 2)  # the paper's equation 4
    largest = np.max([np.abs(whole(m) - whole(BASE)) for m in (A, B, C)], axis=0)
    assert np.all(np.abs(whole(unified)) <= largest * (1 + 1e-6))


def test_tall_masks_keep_all_of_a_lone_task_and_less_the_stricter_they_are() -> None:
    near(merge.modulate("tall")(A, base=BASE, unified=merge.emr()(A, base=BASE)), A)
    total = jax.tree.map(lambda a, b, o: a + b - 2 * o if o.dtype == jnp.float32 else o, A, B, BASE)
    tasks = [merge.modulate("tall", s)(A, base=BASE, unified=total) for s in (0.0, 0.4, 0.8, 1e9)]
    kept = [
        sum(int(x.mask.sum()) for x in jax.tree.leaves(t, is_leaf=is_implicit) if isinstance(x, merge.Modulated))
        for t in tasks
    ]
    assert kept[0] > kept[1] > kept[2] > kept[3]
    masks = [merge.modulate("tall", 0.4)(m, base=BASE, unified=total)["dense"]["kernel"].mask for m in (A, B)]
    agreed = merge.consensus(0.4, least=2)(A, B, base=BASE)["dense"]["kernel"] != BASE["dense"]["kernel"]
    np.testing.assert_array_equal(agreed, masks[0] & masks[1])
    with pytest.raises(WspaceError, match="no rule 'both'"):
        merge.modulate("both")  # type: ignore[arg-type]
    with pytest.raises(WspaceError, match=r"weights \[1.0, -1.0\] are not all at least 0"):
        merge.geometric_median((1.0, -1.0))
