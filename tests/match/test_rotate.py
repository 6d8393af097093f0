"""If this were deleted, a rotated or folded model could compute something else, and quantization would be blamed."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wspace as ws
from tests.trace.zoo import ZOO
from wspace.core.containers import as_params
from wspace.core.errors import SelectionError, ShapeError, WspaceError

KEY = jax.random.key(0)
LLAMAS = ["llama", "llama-scanned", "llama-unrolled"]


@pytest.fixture(autouse=True)
def as_users_have_it() -> Any:
    """Models of the zoo don't run under the strict promotion of the rest of these tests."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def signed(params: Any) -> Any:
    """Norm gains of either sign, one of them 0."""
    rng = np.random.default_rng(3)

    def one(path: Any, x: Any) -> Any:
        if "norm" not in jax.tree_util.keystr(path):
            return x
        x = np.array(rng.standard_normal(x.shape), np.float32)
        x[..., 2] = 0
        return x

    return jax.tree_util.tree_map_with_path(one, params)


def error(new: Any, old: Any) -> float:
    return float(np.linalg.norm(np.float64(new) - np.float64(old)) / np.linalg.norm(np.float64(old)))


@pytest.mark.parametrize("hadamard", [False, True])
@pytest.mark.parametrize("name", LLAMAS)
def test_a_llama_may_be_rotated(name: str, hadamard: bool) -> None:
    """Gains folded, stream and values turned: the same function, f32 relative error at most 1e-5."""
    apply, params, inputs = ZOO[name].make()
    params = signed(params)
    run = jax.jit(apply)
    folded = ws.match.fold_gains(apply, params, *inputs)
    assert len(folded.gains) == (5 if name == "llama" else 3) and not folded.kept
    with jax.default_matmul_precision("highest"):
        old = run(params, *inputs)
        assert error(run(folded.params, *inputs), old) <= 1e-5
        g = ws.match.random_element(folded.axes, key=KEY, hadamard=hadamard)
        turned = ws.match.act(folded.params, folded.axes, g)
        assert error(run(turned, *inputs), old) <= 1e-5
    np.testing.assert_allclose(
        np.asarray(turned["embed"]), np.asarray(params["embed"]) @ np.asarray(g["embed"]).T, atol=1e-5
    )
    assert error(turned["head"], params["head"]) > 0.1
    back = ws.match.act(turned, folded.axes, ws.match.inverse(folded.axes, g))
    for path, x in as_params(folded.params).leaves.items():
        np.testing.assert_allclose(as_params(back).leaves[path], x, atol=2e-6)


def slow(w: np.ndarray, layout: Any, axes: Any, g: Any) -> np.ndarray:
    """Axis by axis, entry by entry: one row of Q for each coordinate, of the index that the entry lies at."""
    out = np.float64(w)
    for k, axis in enumerate(layout):
        for strip in axis:
            for f in strip.factors:
                if f.name in axes.groups:
                    out = turned_along(out, k, f, strip, layout, axes.groups[f.name].over, np.float64(g[f.name]))
    return out


def turned_along(w: np.ndarray, k: int, f: Any, strip: Any, layout: Any, over: Any, q: np.ndarray) -> np.ndarray:
    out = w.copy()
    mine = {
        strip.offset + sum(f.stride * c for f, c in zip(strip.factors, cs, strict=True)): cs
        for cs in itertools.product(*(range(f.size) for f in strip.factors))
    }
    for at in np.ndindex(w.shape):
        if at[k] not in mine:
            continue
        coordinates = dict(zip((f.name for f in strip.factors), mine[at[k]], strict=True))
        for j, ((one,), position) in enumerate(zip((a if len(a) == 1 else (None,) for a in layout), at, strict=True)):
            if j != k and one is not None:
                for other in one.factors:
                    coordinates[other.name] = position // other.stride % other.size
        c = coordinates[f.name]
        rows = q[tuple(coordinates[i] for i in over)]
        out[at] = sum(rows[c, d] * w[(*at[:k], at[k] + (d - c) * f.stride, *at[k + 1 :])] for d in range(f.size))
    return out


@pytest.mark.parametrize("name", ["llama-scanned", "gpt"])
def test_equals_the_slow_truth(name: str) -> None:
    """Values of each head in each layer, and (gpt) segments of a fused kernel."""
    apply, params, inputs = ZOO[name].make()
    axes = ws.trace.axes(apply, params, *inputs, kind="orthogonal")
    g = ws.match.random_element(axes, key=KEY)
    moved = as_params(ws.match.act(params, axes, g)).leaves
    for path in axes.covered:
        w = np.asarray(as_params(params).leaves[path])
        np.testing.assert_allclose(moved[path], slow(w, axes.layout[path], axes, g), atol=1e-6)


def rules(kind: str = "orthogonal") -> tuple[Any, Any]:
    params = {"in": jnp.ones((3, 12)), "out": jnp.ones((12, 2))}
    return ws.trace.by_hand({"in": (None, "h"), "out": ("h", None)}, params, kind), params


def test_group_laws() -> None:
    axes, _ = rules()
    rng = np.random.default_rng(0)
    params = {"in": rng.standard_normal((3, 12), np.float32), "out": rng.standard_normal((12, 2), np.float32)}
    g, h = (ws.match.random_element(axes, key=jax.random.key(k)) for k in (1, 2))
    both = ws.match.act(ws.match.act(params, axes, h), axes, g)
    for name, w in ws.match.act(params, axes, ws.match.compose(axes, g, h)).items():
        np.testing.assert_allclose(w, both[name], atol=2e-6)
    same = ws.match.act(params, axes, ws.match.identity(axes))
    assert all((np.asarray(same[name]) == params[name]).all() for name in params)
    np.testing.assert_allclose(both["in"] @ both["out"], params["in"] @ params["out"], atol=1e-5)


@pytest.mark.parametrize("hadamard", [False, True])
def test_random_elements_are_orthogonal(hadamard: bool) -> None:
    axes, _ = rules()
    q = np.float64(ws.match.random_element(axes, key=KEY, hadamard=hadamard)["h"])
    np.testing.assert_allclose(q @ q.T, np.eye(12), atol=1e-6)
    other = ws.match.random_element(axes, key=jax.random.key(1), hadamard=hadamard)["h"]
    assert (np.abs(np.asarray(other) - q) > 1e-3).any()


def test_a_hadamard_matrix_spreads_evenly() -> None:
    params = {"in": jnp.ones((3, 16)), "out": jnp.ones((16, 2))}
    axes = ws.trace.by_hand({"in": (None, "h"), "out": ("h", None)}, params, "orthogonal")
    q = ws.match.random_element(axes, key=KEY, hadamard=True)["h"]
    np.testing.assert_allclose(np.abs(q), 0.25, rtol=1e-6)


def test_wrong_elements_and_kinds() -> None:
    axes, params = rules()
    q = np.eye(12, dtype=np.float32)
    for wrong, says in (
        (q * 1.1, "not orthogonal"),
        (q[:6], r"\(6, 12\), wanted \(12, 12\)"),
        (q.astype(int), "floating"),
    ):
        with pytest.raises(ShapeError, match=says):
            ws.match.act(params, axes, {"h": wrong})
    with pytest.raises(WspaceError, match="kind 'scale'"):
        rules("scale")


def test_bfloat16_is_turned_in_float32() -> None:
    axes, _ = rules()
    w = jnp.asarray(np.random.default_rng(1).standard_normal((3, 12)), jnp.bfloat16)
    g = ws.match.random_element(axes, key=KEY)
    got = ws.match.act({"in": w, "out": jnp.ones((12, 2))}, axes, g)["in"]
    want = np.float64(w) @ np.float64(g["h"]).T
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got, jnp.asarray(want, jnp.float32).astype(jnp.bfloat16))


def norm(p: Any, x: Any) -> Any:
    h = x @ p["in"]
    return h / jnp.sqrt(jnp.square(h).mean(-1, keepdims=True)) * p["gain"]


X = jnp.asarray(np.random.default_rng(2).standard_normal((4, 3)), jnp.float32)
P = {"in": jnp.eye(3), "gain": jnp.array([2.0, -1.0, 0.5]), "shift": jnp.ones(3), "out": jnp.ones((3, 2))}


def test_gains_go_only_where_nothing_else_lies_between() -> None:
    behind = {
        "linear": (lambda p, x: norm(p, x) @ p["out"], ("gain",)),
        "relu": (lambda p, x: jax.nn.relu(norm(p, x)) @ p["out"], ()),
        "output": (lambda p, x: norm(p, x), ()),
        "tied": (lambda p, x: norm(p, x) @ p["in"], ()),
    }
    for name, (apply, gains) in behind.items():
        folded = ws.match.fold_gains(apply, P, X)
        assert folded.gains == gains and folded.kept == (() if gains else ("gain",)), name
        np.testing.assert_allclose(apply(folded.params, X), apply(P, X), rtol=1e-5)
        assert bool(folded.axes.groups) == bool(gains)


def test_what_would_be_divided() -> None:
    """Behind a LayerNorm the shift is part of what the gain's factor scales."""
    apply = lambda p, x: (norm(p, x) + p["shift"]) @ p["out"]  # noqa: E731
    folded = ws.match.fold_gains(apply, P, X)
    np.testing.assert_allclose(folded.params["shift"], 1 / P["gain"])
    np.testing.assert_allclose(apply(folded.params, X), apply(P, X), rtol=1e-5)
    with pytest.raises(WspaceError, match="gain has zeros, and shift would be divided"):
        ws.match.fold_gains(apply, {**P, "gain": jnp.array([1.0, 0.0, 1.0])}, X)
    with pytest.raises(SelectionError, match="'gian' matches none"):
        ws.match.fold_gains(apply, P, X, where="gian")
