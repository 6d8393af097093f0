"""If this were deleted, units could be paired by wrong correlations, and repaired to wrong means and deviations."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import wspace as ws
from wspace.core.errors import NonFinite, ShapeError, SideTreeError, WspaceError
from wspace.match import Moments

RNG = np.random.default_rng(0)
X = RNG.standard_normal((50, 6)).astype(np.float32)
AXES = ws.trace.by_hand({"w": (None, "h")}, {"w": jnp.ones((3, 6))})


def test_correlation_is_numpys() -> None:
    y = (X @ RNG.standard_normal((6, 4)) + 3).astype(np.float32)
    got = ws.match.correlation(**ws.match.cross_of(jnp.asarray(X), jnp.asarray(y)))
    np.testing.assert_allclose(got, np.corrcoef(X.T, y.T)[:6, 6:], atol=2e-5)


def test_a_unit_that_never_varies_correlates_with_nothing() -> None:
    still = X.copy()
    still[:, 2] = 0.0
    got = np.asarray(ws.match.correlation(**ws.match.cross_of(jnp.asarray(still), jnp.asarray(X))))
    assert np.isfinite(got).all() and (got[2] == 0).all()


@pytest.mark.parametrize("kind", ["gram", "correlation"])
def test_permuted_units_are_found(kind: str) -> None:
    p = RNG.permutation(6)
    y = np.empty_like(X)
    y[:, p] = X  # y's unit p[i] is x's unit i
    found = ws.match.cross_of(jnp.asarray(X), jnp.asarray(y))
    similarity = found["cross"] if kind == "gram" else ws.match.correlation(**found)
    np.testing.assert_array_equal(ws.match.pair_units(AXES, {"h": similarity})["h"], p)


def test_pair_units_says_what_is_wrong() -> None:
    with pytest.raises(SideTreeError, match="has g"):
        ws.match.pair_units(AXES, {"g": jnp.eye(6)})
    with pytest.raises(SideTreeError, match="empty"):
        ws.match.pair_units(AXES, {})
    with pytest.raises(ShapeError, match=r"\(5, 5\), wanted \(6, 6\)"):
        ws.match.pair_units(AXES, {"h": jnp.eye(5)})
    with pytest.raises(NonFinite, match="'h'"):
        ws.match.pair_units(AXES, {"h": jnp.full((6, 6), jnp.nan)})


def moments(x: np.ndarray) -> Moments:
    return Moments(jnp.asarray(x.mean(0)), jnp.asarray(x.var(0)))


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_repaired_layer_has_the_wanted_statistics(t: float) -> None:
    """Measured on the layer's output, with the affine map folded into kernel and bias."""
    kernels = [RNG.standard_normal((6, 4)).astype(np.float32) for _ in range(2)]
    biases = [RNG.standard_normal(4).astype(np.float32) for _ in range(2)]
    a, b = (X @ w + c for w, c in zip(kernels, biases, strict=True))
    w, c = ((1 - t) * p + t * q for p, q in (kernels, biases))
    after = ws.match.repair(moments(X @ w + c), ws.match.goal(moments(a), moments(b), t), 0.0)
    w, c = ws.match.fold(jnp.asarray(w), jnp.asarray(c), after)
    out = X @ np.asarray(w) + np.asarray(c)
    np.testing.assert_allclose(out.mean(0), (1 - t) * a.mean(0) + t * b.mean(0), atol=1e-5)
    np.testing.assert_allclose(out.std(0), (1 - t) * a.std(0) + t * b.std(0), rtol=1e-5)


def test_rescale_keeps_the_shift() -> None:
    after = ws.match.rescale(moments(X), Moments(jnp.full(6, 9.0), jnp.full(6, 4.0)), 0.0)
    np.testing.assert_allclose((X * np.asarray(after.scale)).std(0), 2.0, rtol=1e-5)
    assert (after.shift == 0).all()


def test_convolution_kernels_fold_too() -> None:
    kernel = jnp.asarray(RNG.standard_normal((3, 3, 2, 4)), jnp.float32)
    scale = jnp.arange(1.0, 5.0)
    folded, _ = ws.match.fold(kernel, jnp.zeros(4), ws.match.Affine(scale, jnp.zeros(4)))
    np.testing.assert_allclose(folded, np.asarray(kernel) * np.asarray(scale), rtol=1e-6)


def test_pooled_statistics_are_those_of_all_data() -> None:
    parts = np.split(X, [10, 25])
    stacked = Moments(jnp.stack([p.mean(0) for p in parts]), jnp.stack([p.var(0) for p in parts]))
    found = ws.match.pooled(stacked, jnp.array([len(p) for p in parts]))
    np.testing.assert_allclose(found.mean, X.mean(0), atol=1e-6)
    np.testing.assert_allclose(found.variance, X.var(0), rtol=1e-5)
    put = ws.match.batch_norm({"mean": jnp.zeros(6, jnp.bfloat16), "var": jnp.ones(6)}, found)
    assert put["mean"].dtype == jnp.bfloat16 and (put["var"] == found.variance).all()
    with pytest.raises(ShapeError, match=r"\(5,\)"):
        ws.match.batch_norm({"mean": jnp.zeros(5), "var": jnp.ones(5)}, found)


def test_zip_pairs_equal_features_across_models() -> None:
    p = RNG.permutation(6)
    found = ws.match.zip_features(np.corrcoef(X.T, X[:, p].T), keep=6)
    whole = np.concatenate([np.asarray(found.unmerge[0]), np.asarray(found.unmerge[1])])
    for i in range(6):  # feature i of the second model is feature p[i] of the first
        np.testing.assert_array_equal(whole[6 + i], whole[p[i]])
    np.testing.assert_allclose(
        sum(m @ u for m, u in zip(found.merge, found.unmerge, strict=True)), np.eye(6), atol=1e-6
    )


def test_zip_merges_twins_within_a_model_only_as_far_as_beta_lets_it() -> None:
    twins = np.concatenate([X[:, :3], X[:, :3]], 1)  # features 0..2 twice in model one
    other = RNG.standard_normal((50, 6)).astype(np.float32)
    near = np.corrcoef(twins.T, other.T)
    inside = [
        int((np.asarray(ws.match.zip_features(near, keep=6, beta=beta).unmerge[0]).sum(0) > 1).sum())
        for beta in (0.0, 0.35, 1.0)
    ]
    assert inside[0] == 0 and inside[1] == 1 and inside[2] == 3


def test_zipped_permuted_copy_computes_the_same() -> None:
    """Two copies of one net, the second with its hidden units moved: their zip is that net."""
    p = RNG.permutation(6)
    w1, w2 = RNG.standard_normal((5, 6)).astype(np.float32), RNG.standard_normal((6, 2)).astype(np.float32)
    x = RNG.standard_normal((40, 5)).astype(np.float32)
    hidden = np.maximum(x @ w1, 0)
    found = ws.match.zip_features(np.corrcoef(hidden.T, hidden[:, p].T), keep=6)
    first = ws.match.zip_kernel([jnp.asarray(w1), jnp.asarray(w1[:, p])], None, found)
    second = ws.match.zip_kernel([jnp.asarray(w2), jnp.asarray(w2[p])], found, None)
    np.testing.assert_allclose(np.maximum(x @ np.asarray(first), 0) @ np.asarray(second), hidden @ w2, atol=1e-4)


def test_zip_says_what_is_wrong() -> None:
    with pytest.raises(ShapeError, match=r"\(3, 3\)"):
        ws.match.zip_features(np.eye(3), keep=2)
    with pytest.raises(NonFinite, match="set it to 0"):
        ws.match.zip_features(np.full((4, 4), np.nan), keep=2)
    with pytest.raises(WspaceError, match="raise beta or keep"):
        ws.match.zip_features(np.corrcoef(X.T, X.T), keep=2, beta=0.0)
