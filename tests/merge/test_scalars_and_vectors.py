"""Deleted, a norm's scale, a scalar, or weights and models that cancel out could crash a merge or fill it with NaN."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wspace as ws
from wspace.average import karcher, model_stock
from wspace.core.errors import WspaceError
from wspace.interpolate import multislerp, nuslerp
from wspace.merge import (
    arcee_fusion,
    breadcrumbs,
    crumbs,
    della,
    magprune,
    nearswap,
    ram,
    ramplus_tl,
    sce,
    ties,
    weighted_sum,
)

ALL = {
    "ties": (ties(0.5), 2),
    "breadcrumbs": (breadcrumbs(0.5, 0.3), 2),
    "della": (della(0.5, 0.3), 2),
    "della_linear": (della(0.5, 0.3, consensus=weighted_sum, rescale="l1"), 2),
    "sce": (sce(0.5), 2),
    "ram": (ram(), 2),
    "ramplus_tl": (ramplus_tl(), 2),
    "model_stock": (model_stock(), 2),
    "model_stock, filters": (model_stock(axis=-1), 2),
    "nuslerp": (nuslerp(), 2),
    "nuslerp, rows": (nuslerp(axis=-1), 2),
    "multislerp": (multislerp(), 2),
    "karcher": (karcher(), 2),
    "nearswap": (nearswap(0.5), 1),
    "arcee_fusion": (arcee_fusion(), 1),
}


def run(t: ws.Transform, base: Any, *models: Any) -> np.ndarray:
    sides = {"base": {"w": jnp.asarray(base)}} if "base" in t.needs else {}
    key = {"key": jax.random.key(0)} if "key" in t.needs else {}
    given = [{"w": jnp.asarray(m)} for m in models], sides | key
    return np.asarray(jax.jit(lambda trees, sides: t(*trees, **sides))(*given)["w"])


@pytest.mark.parametrize("shape", [(), (1,), (7,)])
@pytest.mark.parametrize("name", ALL)
def test_leaves_of_no_axis_and_of_one(name: str, shape: tuple[int, ...]) -> None:
    t, n = ALL[name]
    base, *models = np.random.default_rng(0).standard_normal((3, *shape)).astype(np.float32)
    got = run(t, base, *models[:n])
    assert got.shape == shape and np.isfinite(got).all()


@pytest.mark.parametrize("name", [k for k, (_, n) in ALL.items() if n == 2])
def test_models_that_are_opposite_about_zero(name: str) -> None:
    w = np.random.default_rng(1).standard_normal((4, 6)).astype(np.float32)
    assert np.isfinite(run(ALL[name][0], np.zeros_like(w), w, -w)).all()


def test_weights_that_sum_to_zero() -> None:
    a, b = np.random.default_rng(2).standard_normal((2, 4, 6)).astype(np.float32)
    for t in (nuslerp((1.0, -1.0)), multislerp((1.0, -1.0)), karcher((1.0, -1.0))):
        assert np.isfinite(run(t, a, a, b)).all()
    np.testing.assert_array_equal(run(nuslerp((1.0, -1.0)), a, a, b), run(nuslerp((1.0, 1.0)), a, a, b))


def test_opposite_models_give_the_line_the_base_or_the_sum() -> None:
    w = np.array([[3.0, 4.0]], np.float32)
    base = np.zeros_like(w)
    np.testing.assert_allclose(run(nuslerp((3.0, 1.0)), base, w, -w), w / 2, rtol=1e-6)
    np.testing.assert_array_equal(run(model_stock(), base, w, -w), base)
    np.testing.assert_allclose(run(multislerp(), base, w, -w), base, atol=1e-6)


def test_gamma_below_one_entry_drops_no_outlier() -> None:
    """mergekit zeroed such a leaf before 0.1.5."""
    w = np.array([5.0, 1.0, -3.0, 2.0], np.float32)
    np.testing.assert_array_equal(run(crumbs(0.5, 0.01), None, w), [5.0, 0.0, -3.0, 0.0])
    np.testing.assert_array_equal(run(crumbs(0.75, 0.5), None, w), [0.0, 1.0, -3.0, 2.0])  # room for one outlier only


@pytest.mark.parametrize("traced", [False, True])
def test_a_trim_leaves_one_entry_of_a_short_leaf_and_none_at_density_zero(traced: bool) -> None:
    """As mergekit 0.1.5 does: a scalar of two models is their mean, not the base. Of the seven entries 0.1 is none."""
    rng = np.random.default_rng(3)
    for shape in ((), (1,), (7,)):
        base, a = rng.standard_normal((2, *shape)).astype(np.float32)
        largest = np.where(np.abs(a - base) == np.abs(a - base).max(), a, base)
        for density, want in ((0.1, largest), (0.0, base), (1.0, a)):
            own = jnp.asarray(density, jnp.float32) if traced else density
            np.testing.assert_allclose(run(ties(own), base, a), want, rtol=1e-5, atol=1e-6)


def test_settings_that_mean_nothing_are_named() -> None:
    with pytest.raises(WspaceError, match=r"density 0.9 \+- epsilon 0.2 is no window"):
        magprune(0.9, 0.2)
    with pytest.raises(WspaceError, match="no rescale='l2'"):
        della(0.5, rescale="l2")  # type: ignore[arg-type]
    with pytest.raises(WspaceError, match="max_iter is 0"):
        karcher(max_iter=0)
    with pytest.raises(WspaceError, match="model_stock: w comes from one model"):
        run(model_stock(), np.ones(3), np.ones(3))


@pytest.mark.parametrize("name", ["sce", "ram", "model_stock", "nuslerp", "multislerp", "karcher", "nearswap"])
def test_gradients_are_finite_where_models_are_equal_or_zero(name: str) -> None:
    t, n = ALL[name]

    def whole(x: Any, w: Any) -> Any:
        sides = {"base": {"w": w}} if "base" in t.needs else {}
        return jnp.sum(t(*({"w": x},) * n, **sides)["w"])

    ones = jnp.ones((2, 3))
    slope = jax.jit(jax.grad(whole))
    for w in (ones, jnp.zeros((2, 3))):
        assert np.isfinite(slope(w, w)).all()
