"""Deleted, sequential merging could drift in length, keep what it shares with earlier models, or depend on the SVD."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.rows import like, tree, weights
from wspace.core.errors import TreeMismatch
from wspace.merge import opcm_init, opcm_update
from wspace.merge.darex import least_error_q_array
from wspace.merge.opcm import opcm_array

RNG = np.random.default_rng(0)
BASE = tree(RNG)
MODELS = [like(BASE, RNG) for _ in range(5)]


def distance(a: Any, b: Any) -> float:
    ours, theirs = weights(a), weights(b)
    return float(np.sqrt(sum(np.sum((ours[p] - theirs[p]) ** 2) for p in ours)))


def slow(t: np.ndarray, d: np.ndarray, alpha: float, tol: float = 1e-9) -> np.ndarray:
    """With the full bases of the definition, entry by entry."""
    u, s, vt = np.linalg.svd(d)
    p = u.T @ t @ vt.T
    r = next((i for i in range(len(s)) if s[: i + 1].sum() / s.sum() > alpha), len(s))
    for i in range(p.shape[0]):
        for j in range(p.shape[1]):
            if (i < r and j < r) or (i == j and s[i] > tol):
                p[i, j] = 0
    return u @ p @ vt


@pytest.mark.parametrize("shape", [(7, 7), (9, 5), (5, 9)])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 0.9])
def test_the_projection_is_that_of_the_full_bases(shape: Any, alpha: float) -> None:
    t, d = RNG.standard_normal((2, *shape))
    got = np.asarray(opcm_array(jnp.asarray(t, jnp.float32), jnp.asarray(d, jnp.float32), alpha))
    np.testing.assert_allclose(got, slow(t, d, alpha), atol=2e-5)
    assert abs(np.sum(got * d)) < 1e-4
    turned = opcm_array(jnp.asarray(t.T, jnp.float32), jnp.asarray(d.T, jnp.float32), alpha)
    np.testing.assert_allclose(turned.T, got, atol=2e-5)


def test_a_low_rank_merge_leaves_alone_what_is_orthogonal_to_it() -> None:
    q = np.linalg.qr(RNG.standard_normal((20, 20)))[0]
    d = q[:, :3] @ np.diag([3.0, 2.0, 1.0]) @ q[:, 3:6].T
    t = q[:, 6:] @ RNG.standard_normal((14, 14)) @ np.eye(14, 20)
    t = t - t @ q[:, 3:6] @ q[:, 3:6].T
    got = opcm_array(jnp.asarray(t, jnp.float32), jnp.asarray(d, jnp.float32), 0.5)
    np.testing.assert_allclose(got, t, atol=2e-5)
    np.testing.assert_allclose(opcm_array(jnp.asarray(t, jnp.float32), jnp.zeros((20, 20)), 0.5), t, rtol=1e-6)


@pytest.mark.parametrize(
    "array", [lambda d, m: opcm_array(d, m, 0.5), lambda d, m: least_error_q_array(d, m, m[0], 0.5)]
)
def test_products_are_of_full_float32_also_where_a_device_would_round_them(array: Any) -> None:
    """A GPU or TPU takes fewer bits by default: what is projected away would stay by a thousandth."""
    square = jnp.ones((4, 4))
    products = [e for e in equations(jax.make_jaxpr(array)(square, square).jaxpr) if e.primitive.name == "dot_general"]
    assert products and all(e.params["precision"] == (jax.lax.Precision.HIGHEST,) * 2 for e in products)


def equations(jaxpr: Any) -> Iterator[Any]:
    for e in jaxpr.eqns:
        yield e
        for inner in e.params.values():
            yield from equations(inner.jaxpr) if hasattr(inner, "jaxpr") else ()


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_a_run_has_the_definition_step_by_step_and_constant_memory(wrap: Any) -> None:
    state = opcm_init(BASE, MODELS[0])
    update = wrap(lambda s, m: opcm_update(s, m, 0.5))
    base, flat = weights(BASE), [weights(m) for m in MODELS]
    merged, lam, norms = flat[0], 1.0, [distance(MODELS[0], BASE)]
    size = [x.size for x in jax.tree.leaves(state)]
    for model, m in zip(flat[1:], MODELS[1:], strict=True):
        state = update(state, m)
        raw = {}
        for p in base:
            t, d = model[p] - base[p], merged[p] - base[p]
            if p == "layers/kernel":
                t = np.stack([slow(x, y, 0.5) for x, y in zip(t, d, strict=True)])
            elif p == "dense/kernel":
                t = slow(t, d, 0.5)
            raw[p] = lam * d + t
        norms.append(float(np.sqrt(sum(np.sum((model[p] - base[p]) ** 2) for p in base))))
        lam = np.sqrt(sum(np.sum(x**2) for x in raw.values())) / np.mean(norms)
        merged = {p: base[p] + raw[p] / lam for p in base}
        got = weights(state.merged)
        for p in base:
            np.testing.assert_allclose(got[p], merged[p], atol=5e-5)
        np.testing.assert_allclose(float(state.lam), lam, rtol=1e-5)
        np.testing.assert_allclose(distance(state.merged, BASE), np.mean(norms), rtol=1e-5)
        assert [x.size for x in jax.tree.leaves(state)] == size


def test_a_model_that_is_the_base_changes_only_the_length() -> None:
    state = opcm_update(opcm_init(BASE, MODELS[0]), BASE)
    got, base, first = weights(state.merged), weights(BASE), weights(MODELS[0])
    for p in base:
        np.testing.assert_allclose(got[p] - base[p], (first[p] - base[p]) / 2, atol=1e-5)


def test_trees_of_another_structure_are_named_before_any_work() -> None:
    less = {k: v for k, v in BASE.items() if k != "layers"}
    turned = {**BASE, "dense": {**BASE["dense"], "kernel": BASE["dense"]["kernel"].T}}
    for base, first, words in ((less, BASE, "layers/kernel"), (BASE, less, "layers/kernel"), (BASE, turned, "dense/k")):
        with pytest.raises(TreeMismatch, match=words):
            opcm_init(base, first)
