"""Deleted, RegMean could miss the joint least squares solution, and RegMean++ look at the models' own features."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.stats.grams import activations, gram
from wspace import on
from wspace.average import uniform_soup
from wspace.core.errors import SelectionError, SideTreeError
from wspace.merge import fisher, regmean, regmean_plusplus
from wspace.stats.gram import Diagonal

RNG = np.random.default_rng(0)


def f32(x: Any) -> jax.Array:
    return jnp.asarray(x, jnp.float32)


def test_merged_regressions_are_the_regression_on_all_data() -> None:
    """The paper's own identity: each model solves its task, the merge solves both."""
    xs = [activations(RNG, 40, 6), activations(RNG, 60, 6)]
    ys = [RNG.standard_normal((len(x), 3)) for x in xs]
    alone = [np.linalg.lstsq(x, y)[0] for x, y in zip(xs, ys, strict=True)]
    joint = np.linalg.lstsq(np.concatenate(xs), np.concatenate(ys))[0]
    got = regmean(alpha=1.0, weights=(40.0, 60.0))(
        *({"kernel": f32(w)} for w in alone), gram=tuple({"kernel": f32(gram(x))} for x in xs)
    )
    np.testing.assert_allclose(got["kernel"], joint, atol=2e-5 * np.abs(joint).max())
    assert np.abs(joint - np.mean(alone, axis=0)).max() > 0.01


def test_alpha_zero_and_a_diagonal_gram_are_fisher_means_of_rows() -> None:
    a, b = ({"kernel": f32(RNG.standard_normal((6, 3)))} for _ in range(2))
    grams = [gram(activations(RNG, 40, 6)) for _ in range(2)]
    rows = [{"kernel": f32(np.repeat(np.diag(g)[:, None], 3, axis=1))} for g in grams]
    want = fisher()(a, b, fisher=tuple(rows))["kernel"]
    got = regmean(alpha=0.0)(a, b, gram=tuple({"kernel": f32(g)} for g in grams))["kernel"]
    np.testing.assert_allclose(got, want, atol=1e-6)
    kept = tuple({"kernel": Diagonal(f32(np.diag(g)))} for g in grams)
    np.testing.assert_allclose(regmean()(a, b, gram=kept)["kernel"], want, atol=1e-6)


def test_unseen_inputs_keep_the_mean_and_a_singular_gram_is_flagged_or_damped() -> None:
    a, b = ({"kernel": f32(RNG.standard_normal((6, 3)))} for _ in range(2))
    xs = [activations(RNG, 3, 6) * (np.arange(6) != 2) for _ in range(2)]
    sides = tuple({"kernel": f32(gram(x[:2]))} for x in xs)  # 2 tokens each cannot settle 5 inputs
    mean = (a["kernel"] + b["kernel"]) / 2
    for _ in range(20):  # a Cholesky factor alone is there by rounding one time in twelve
        few = tuple({"kernel": f32(gram(activations(RNG, 2, 6)))} for _ in range(2))
        assert jnp.isnan(regmean(alpha=1.0)(a, b, gram=few)["kernel"]).all()
    for t in (regmean(), regmean(alpha=1.0, damp=1e-3)):
        got = t(a, b, gram=sides)["kernel"]
        assert jnp.isfinite(got).all()
        np.testing.assert_allclose(got[2], mean[2], rtol=1e-6)
    far = regmean(damp=1e6)(a, b, gram=sides)["kernel"]
    np.testing.assert_allclose(far, mean, atol=1e-5)


def apply(params: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ params["kernel"] + params["bias"][None])


def test_plusplus_takes_each_models_features_from_the_merged_blocks_before() -> None:
    def block(i: int, o: int) -> list[dict[str, jax.Array]]:
        return [{"kernel": f32(RNG.standard_normal((i, o))), "bias": f32(RNG.standard_normal(o))} for _ in range(2)]

    first, second = block(5, 6), block(6, 4)
    data = [[f32(RNG.standard_normal((n, 5))) for n in sizes] for sizes in ((30, 30), (20, 20))]
    got = regmean_plusplus([(apply, first), (apply, second)], data, alpha=0.9, damp=1e-3)
    xs = [jnp.concatenate(d) for d in data]
    for models, merged in zip((first, second), got, strict=True):
        grams = tuple({"kernel": f32(gram(np.asarray(x, np.float64))), "bias": None} for x in xs)
        want = on("kernel", regmean(0.9, damp=1e-3), otherwise=uniform_soup())(*models, gram=grams)
        np.testing.assert_allclose(merged["kernel"], want["kernel"], atol=2e-5)
        np.testing.assert_allclose(merged["bias"], (models[0]["bias"] + models[1]["bias"]) / 2, atol=1e-6)
        xs = [apply(merged, x) for x in xs]
    own = [apply(p, x) for p, x in zip(first, map(jnp.concatenate, data), strict=True)]
    grams = tuple({"kernel": f32(gram(np.asarray(x, np.float64)))} for x in own)
    plain = regmean(0.9, damp=1e-3)(*({"kernel": m["kernel"]} for m in second), gram=grams)["kernel"]
    assert jnp.max(jnp.abs(plain - got[1]["kernel"])) > 0.01  # RegMean is another merge


def test_roles_read_from_the_program_are_used() -> None:
    """`[out, in]` weights under a name that says otherwise: the Gram matrix is of the axis that meets the input."""
    models = [{"kernel": f32(RNG.standard_normal((3, 5)))} for _ in range(2)]
    turned = [{"kernel": m["kernel"].T} for m in models]
    data = [[f32(RNG.standard_normal((20, 5)))] for _ in range(2)]
    (got,) = regmean_plusplus([(lambda p, x: x @ p["kernel"].T, models)], data)
    (want,) = regmean_plusplus([(lambda p, x: x @ p["kernel"], turned)], data)
    np.testing.assert_allclose(got["kernel"].T, want["kernel"], atol=1e-5)


def test_mistakes_are_named() -> None:
    models = [{"kernel": jnp.ones((2, 2))}] * 2
    with pytest.raises(SelectionError, match="one list of batches for each model"):
        regmean_plusplus([(apply, models)], [[jnp.ones((1, 2))]])
    with pytest.raises(SideTreeError, match="'gram' is one tree"):
        regmean()(*models, gram={"kernel": jnp.eye(2)})
    with pytest.raises(SideTreeError, match=r"'gram' has \(3, 3\) for kernel"):
        regmean()(*models, gram=({"kernel": jnp.eye(2)}, {"kernel": jnp.eye(3)}))
