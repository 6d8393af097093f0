"""If this were deleted, weight matching could lose a planted permutation, fall in its objective, or depend on luck."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wspace as ws
from tests.trace.layers import attend, normal
from tests.trace.zoo import ZOO
from wspace.core.containers import as_params
from wspace.core.errors import MissingExtra, NonFinite, ShapeError, SideTreeError, TreeMismatch
from wspace.data import minilm
from wspace.match import gains, objective, weight

KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def as_users_have_it() -> Any:
    """Models of other libraries don't run under the strict promotion of the rest of these tests."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@cache
def zoo(name: str) -> tuple[Any, Any]:
    apply, params, inputs = ZOO[name].make()
    return params, ws.trace.axes(apply, params, *inputs)


def drawn(axes: Any, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {n: rng.permuted(np.broadcast_to(np.arange(g.size), g.shape), axis=-1) for n, g in axes.groups.items()}


def jitter(tree: Any, seed: int, amount: float) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: x + amount * jnp.std(x) * rng.standard_normal(x.shape).astype(x.dtype) if hasattr(x, "dtype") else x,
        tree,
    )


def inner(a: Any, b: Any, axes: Any, g: Any) -> float:
    """<a, act(b, g)> in float64."""
    moved, ours = as_params(ws.match.act(b, axes, g)).leaves, as_params(a).leaves
    return sum(float(np.sum(np.float64(ours[p]) * np.float64(moved[p]))) for p in axes.covered)


@pytest.mark.parametrize("name", ZOO)
def test_planted_is_found_in_every_model(name: str) -> None:
    params, axes = zoo(name)
    g = drawn(axes, 1)
    found = weight(params, ws.match.act(params, axes, ws.match.inverse(axes, g)), axes, key=KEY)
    assert found.keys() == g.keys()
    for group, p in g.items():
        np.testing.assert_array_equal(found[group], p, err_msg=group)


def test_planted_is_found_in_minilm() -> None:
    """Its real weights: 12 heads of 32 in each of 6 layers, hidden layers of 1536."""
    try:
        params = minilm.load()
    except MissingExtra as missing:
        pytest.skip(str(missing))
    batch = minilm.Batch(jnp.arange(12).reshape(2, 6) + 2000, jnp.ones((2, 6), bool))
    axes = ws.trace.axes(minilm.apply, params, batch)
    g = drawn(axes, 15)
    found = weight(params, ws.match.act(params, axes, ws.match.inverse(axes, g)), axes, key=KEY)
    for group, p in g.items():
        np.testing.assert_array_equal(found[group], p, err_msg=group)


def test_a_copy_needs_no_assignment_unless_units_are_twins(monkeypatch: pytest.MonkeyPatch) -> None:
    params, axes = zoo("mlp")
    kernel, bias = np.array(params["a"]["kernel"]), np.array(params["a"]["bias"])
    kernel[:, 3], bias[3] = kernel[:, 1], bias[1]
    twins = {**params, "a": {"kernel": kernel, "bias": bias}}
    g, solved = drawn(axes, 14), []
    real = gains.solve
    monkeypatch.setattr(gains, "solve", lambda gain, name: solved.append(name) or real(gain, name=name))
    for net, needed in ((params, []), (twins, ["a"])):
        solved.clear()
        found = weight(net, ws.match.act(net, axes, ws.match.inverse(axes, g)), axes, key=KEY)
        assert solved == needed
        np.testing.assert_array_equal(found["b"], g["b"])
        np.testing.assert_allclose(
            inner(net, ws.match.act(net, axes, ws.match.inverse(axes, g)), axes, found),
            inner(net, net, axes, ws.match.identity(axes)),
            rtol=1e-6,
        )


@pytest.mark.parametrize("name", ["mlp", "resnet20-batch", "gpt", "llama"])
def test_planted_is_found_in_noise(name: str) -> None:
    params, axes = zoo(name)
    g = drawn(axes, 2)
    b = jitter(ws.match.act(params, axes, ws.match.inverse(axes, g)), 3, 0.05)
    found = weight(params, b, axes, key=KEY)
    for group, p in g.items():
        np.testing.assert_array_equal(found[group], p, err_msg=group)


@pytest.mark.parametrize("name", ["mlp", "lstm", "unet", "vit", "llama-scanned"])
def test_objective_never_falls_and_is_that_of_the_result(name: str) -> None:
    params, axes = zoo(name)
    other = jitter(params, 5, 3.0)
    start, seen = drawn(axes, 6), []
    found = weight(params, other, axes, key=KEY, start=start, on_sweep=lambda *s: seen.append(s))
    values = [value for _, value, _ in seen]
    assert values[0] == pytest.approx(inner(params, other, axes, start), rel=1e-5)
    assert values[-1] == pytest.approx(inner(params, other, axes, found), rel=1e-5)
    assert all(b >= a - 1e-6 * abs(a) for a, b in itertools.pairwise(values)) and values[-1] > values[0]
    assert seen[-1][2] == 0 and objective(params, other, axes, found) == pytest.approx(values[-1])


def test_no_exchange_of_two_units_is_better() -> None:
    params, axes = zoo("mlp")
    other = jitter(params, 7, 3.0)
    found = weight(params, other, axes, key=KEY)
    best = inner(params, other, axes, found)
    for name, p in found.items():
        for i, j in itertools.combinations(range(p.size), 2):
            swapped = np.array(p)
            swapped[[i, j]] = swapped[[j, i]]
            assert inner(params, other, axes, {**found, name: swapped}) <= best + 1e-5


def test_one_group_is_solved_exactly() -> None:
    rng = np.random.default_rng(8)
    shapes = {"w1": (3, 5), "b1": (5,), "w2": (5, 2)}
    a, b = ({k: jnp.asarray(rng.standard_normal(s), jnp.float32) for k, s in shapes.items()} for _ in range(2))
    axes = ws.trace.by_hand({"w1": (None, "h"), "b1": ("h",), "w2": ("h", None)}, a)
    every = [np.array(p) for p in itertools.permutations(range(5))]
    best = max(every, key=lambda p: inner(a, b, axes, {"h": p}))
    np.testing.assert_array_equal(weight(a, b, axes, key=KEY)["h"], best)


def test_importance_weighs_the_distance() -> None:
    rng = np.random.default_rng(9)
    shapes = {"w1": (3, 5), "w2": (5, 2)}
    a, b, w = ({k: jnp.asarray(rng.standard_normal(s), jnp.float32) for k, s in shapes.items()} for _ in range(3))
    w = {k: jnp.exp(2 * x) for k, x in w.items()}
    axes = ws.trace.by_hand({"w1": (None, "h"), "w2": ("h", None)}, a)

    def distance(p: np.ndarray) -> float:
        moved = ws.match.act(b, axes, {"h": p})
        return sum(float(np.sum(np.float64(w[k]) * np.square(np.float64(a[k]) - np.float64(moved[k])))) for k in a)

    best = min((np.array(p) for p in itertools.permutations(range(5))), key=distance)
    found = weight(a, b, axes, key=KEY, importance=w)["h"]
    np.testing.assert_array_equal(found, best)
    assert (np.asarray(weight(a, b, axes, key=KEY)["h"]) != best).any()  # the weights matter here


def attention() -> tuple[Any, Any, Any]:
    """One attention between a fixed input and a fixed output: 3 heads of 2."""

    def apply(p: Mapping[str, Any], x: Any) -> Any:
        q, k, v = ((x @ p[n]).reshape(*x.shape[:2], 3, 2) for n in ("q", "k", "v"))
        return attend(q, k, v).reshape(*x.shape[:2], 6) @ p["o"]

    shapes = {"q": (4, 6), "k": (4, 6), "v": (4, 6), "o": (6, 4)}
    a = normal({k: jnp.zeros(s) for k, s in shapes.items()})
    rng = np.random.default_rng(10)
    b = {k: jnp.asarray(rng.standard_normal(s), jnp.float32) for k, s in shapes.items()}
    return a, b, ws.trace.axes(apply, a, jnp.ones((1, 3, 4)))


def test_heads_are_matched_with_the_best_of_what_lies_within() -> None:
    """Against all 3! * 2!^3 * 2!^3 elements."""
    a, b, axes = attention()
    (heads,) = (n for n, g in axes.groups.items() if not g.over)
    inside = [n for n, g in axes.groups.items() if g.over]
    assert len(inside) == 2
    pairs = [np.array(p) for p in itertools.product([(0, 1), (1, 0)], repeat=3)]
    best = max(
        inner(a, b, axes, {heads: np.array(h), inside[0]: x, inside[1]: y})
        for h in itertools.permutations(range(3))
        for x in pairs
        for y in pairs
    )
    assert inner(a, b, axes, weight(a, b, axes, key=KEY)) == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("large", [0, 2**60])
def test_gains_are_sums_of_products_compiled_or_not(large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the middle heads of a small attention, entry by entry: a moved by one pair at a time."""
    monkeypatch.setattr(gains, "LARGE", large)
    a, b, axes = attention()
    found = gains.Pair(axes, {p: [(x, as_params(b).leaves[p])] for p, x in as_params(a).leaves.items()})
    g = drawn(axes, 13)
    (name, *_) = (n for n, group in axes.groups.items() if group.over)
    got = found.gains(name, g)
    for turn in ([0, 1], [1, 0]):
        p = np.array(g[name])
        p[1] = turn  # of head 1 alone
        rest = inner(a, b, axes, {**g, name: p}) - sum(got[1, i, turn[i]] for i in range(2))
        straight = np.array(g[name])
        straight[1] = [0, 1]
        base = inner(a, b, axes, {**g, name: straight}) - got[1, 0, 0] - got[1, 1, 1]
        assert rest == pytest.approx(base, abs=1e-5)
    total = sum(got[h, i, g[name][h, i]] for h in range(3) for i in range(2))
    assert found.objective(g, found.of[name]) == pytest.approx(total, abs=1e-5)


def test_same_key_same_element() -> None:
    params, axes = zoo("vgg")
    other = jitter(params, 11, 3.0)
    first, again = (weight(params, other, axes, key=jax.random.key(4)) for _ in range(2))
    assert all((np.asarray(first[n]) == np.asarray(again[n])).all() for n in first)


def test_bfloat16_is_matched_in_float32() -> None:
    params, axes = zoo("mlp")
    g = drawn(axes, 12)
    low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    found = weight(low, ws.match.act(low, axes, ws.match.inverse(axes, g)), axes, key=KEY)
    assert all((np.asarray(found[n]) == g[n]).all() for n in g)


def test_errors_say_what_and_where() -> None:
    params, axes = zoo("mlp")
    bad = {**params, "b": {**params["b"], "kernel": jnp.asarray(params["b"]["kernel"]).at[1, 2].set(jnp.nan)}}
    with pytest.raises(NonFinite, match=r"'(a|b)'"):
        weight(params, bad, axes, key=KEY)
    with pytest.raises(TreeMismatch, match="tree b lacks b/kernel"):
        weight(params, {**params, "b": {"bias": params["b"]["bias"]}}, axes, key=KEY)
    with pytest.raises(ShapeError, match=r"b/kernel has shape \(12, 8\)"):
        weight(params, {**params, "b": {**params["b"], "kernel": params["b"]["kernel"].T}}, axes, key=KEY)
    with pytest.raises(SideTreeError, match="raw"):
        weight(params, params, axes, key=jnp.zeros(2, jnp.uint32))
    with pytest.raises(SideTreeError, match="importance lacks"):
        weight(params, params, axes, key=KEY, importance={"a": params["a"]})
