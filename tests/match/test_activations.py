"""If this were deleted, units could be paired by what other units do, or heads by what lies in another head."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

import wspace as ws
from tests.match.nets import loss, pair
from tests.trace.zoo import ZOO
from wspace.core.errors import SideTreeError
from wspace.data import digits


@pytest.mark.parametrize("name", ["mlp", "llama-scanned", "nnx-attention", "experts"])
def test_planted_is_found(name: str) -> None:
    """Streams, heads and what is in them, layers in a stack; of experts the insides, which only weights show."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        apply, params, (x,) = ZOO[name].make()
        axes = ws.trace.axes(apply, params, x)
        g = ws.match.random_element(axes, key=jax.random.key(1))
        other = ws.match.act(params, axes, ws.match.inverse(axes, g))
        rng = np.random.default_rng(0)
        draw = (
            (lambda: rng.integers(0, 11, (32, *x.shape[1:])))
            if x.dtype == jnp.int32
            else lambda: rng.standard_normal((32, *x.shape[1:]))
        )
        batches = [jnp.asarray(draw(), x.dtype) for _ in range(2)]
        found = ws.match.activations(apply, params, other, iter(batches), axes)
    assert found.keys() == g.keys()
    for group, p in g.items():
        np.testing.assert_array_equal(found[group], p, err_msg=group)


@pytest.mark.parametrize("similarity", ["correlation", "gram"])
def test_two_nets_as_by_hand(similarity: Any) -> None:
    """Hidden units of digits nets by numpy: the same pairs, and a midpoint that is a net again."""
    model, (a, b), axes = pair(64)
    images, _ = digits.load("train")
    images = np.asarray(images)[:400]
    found = ws.match.activations(model.apply, a, b, [images[:150], images[150:]], axes, similarity=similarity)
    names = sorted(axes.groups)  # hidden0, hidden1
    hidden = {}
    for who, net in (("a", a), ("b", b)):
        x, layers = np.float64(images), net["params"]
        for k in range(2):
            w = layers[f"hidden{k}"]
            x = hidden[who, k] = np.maximum(x @ np.float64(w["kernel"]) + np.float64(w["bias"]), 0)
    for k, name in enumerate(names):
        ours, theirs = hidden["a", k], hidden["b", k]
        cost = ours.T @ theirs
        if similarity == "correlation":
            with np.errstate(invalid="ignore"):
                cost = np.nan_to_num(np.corrcoef(ours.T, theirs.T)[: ours.shape[1], ours.shape[1] :])
        best = cost[linear_sum_assignment(cost, maximize=True)].sum()
        got = cost[np.arange(len(cost)), np.asarray(found[name])].sum()
        assert got == pytest.approx(best, rel=1e-5), name
    middle = loss(model, ws.match.midpoint(a, ws.match.act(b, axes, found)))
    assert middle < 0.5 * loss(model, ws.match.midpoint(a, b))


def test_correlation_over_batches_is_numpys() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((50, 6)) + 3, rng.standard_normal((50, 6))
    x[:, 2] = 1.0
    y = y + x
    fold = ws.stats.correlation()
    seen = [ws.stats.Seen(ws.stats.Rows(jnp.asarray(z, jnp.float32)), None) for z in (x[:20], y[:20], x[20:], y[20:])]
    got = fold.finish(fold.merge(fold.lift(*seen[:2]), fold.lift(*seen[2:])))
    with np.errstate(invalid="ignore"):
        want = np.nan_to_num(np.corrcoef(x.T, y.T)[:6, 6:])
    np.testing.assert_allclose(got, want, atol=5e-5)


def test_unknown_similarity() -> None:
    model, (a, b), axes = pair(64)
    with pytest.raises(SideTreeError, match="'cosine' is not known"):
        ws.match.activations(model.apply, a, b, [], axes, similarity="cosine")  # type: ignore[arg-type]
