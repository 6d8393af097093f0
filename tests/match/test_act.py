"""If this were deleted, `act` could move the wrong coordinates, or the group law that matchers need could break."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wspace as ws
from tests.trace.zoo import ZOO
from wspace.core.errors import SelectionError, ShapeError, SideTreeError, TreeMismatch
from wspace.trace import Group, Member, Symmetries
from wspace.trace.groups import Factor, Strip


def two_deep() -> tuple[Any, dict[str, Any], Any]:
    """Heads, their insides, and a group in each layer: everything that an axis can be."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        apply, params, inputs = ZOO["llama-scanned"].make()
        return apply, params, ws.trace.axes(apply, params, *inputs)


def drawn(axes: Symmetries, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {n: rng.permuted(np.broadcast_to(np.arange(g.size), g.shape), axis=-1) for n, g in axes.groups.items()}


def slow_act(w: np.ndarray, layout: Any, axes: Symmetries, g: Any) -> np.ndarray:
    """Entry by entry: find the coordinates of a position by trying all, look the old ones up, find the old position."""
    out = np.empty_like(w)
    for new in itertools.product(*(range(n) for n in w.shape)):
        found = [coordinates(position, axis) for position, axis in zip(new, layout, strict=True)]
        at = {f.name: c for strip, cs in found for f, c in zip(strip.factors, cs, strict=True) if f.name}
        old = []
        for strip, cs in found:
            total = strip.offset
            for f, c in zip(strip.factors, cs, strict=True):
                over = axes.groups[f.name].over if f.name in axes.groups else ()
                total += f.stride * int(g[f.name][tuple(at[i] for i in (*over, f.name))] if f.name in g else c)
            old.append(total)
        out[new] = w[tuple(old)]
    return out


def coordinates(position: int, axis: tuple[Strip, ...]) -> tuple[Strip, tuple[int, ...]]:
    ((strip, cs),) = [
        (strip, cs)
        for strip in axis
        for cs in itertools.product(*(range(f.size) for f in strip.factors))
        if strip.offset + sum(f.stride * c for f, c in zip(strip.factors, cs, strict=True)) == position
    ]
    return strip, cs


def test_a_part_of_each_head() -> None:
    """Heads of 5, of which 3 are used in one way and 2 in another: positions are no mixed radix of the coordinates."""

    def apply(p: Any, x: Any) -> Any:
        h = (x @ p["w"]).reshape(2, 4, 5)
        return jnp.concatenate([jnp.sin(h[..., :3]), jnp.cos(h[..., 3:])], -1).reshape(2, 20) @ p["v"]

    rng = np.random.default_rng(0)
    params = {"w": rng.standard_normal((3, 20)).astype("f"), "v": rng.standard_normal((20, 2)).astype("f")}
    x = jnp.asarray(rng.standard_normal((2, 3)), jnp.float32)
    axes = ws.trace.axes(apply, params, x)
    assert sorted(g.shape for g in axes.groups.values()) == [(4,), (4, 2), (4, 3)]
    g = drawn(axes, 0)
    assert ws.match.check_invariance(apply, params, axes, g, x) <= 1e-6
    for name, w in params.items():
        np.testing.assert_array_equal(ws.match.act(params, axes, g)[name], slow_act(w, axes.layout[(name,)], axes, g))


@pytest.mark.parametrize("where", ["host", "device", "jit"])
def test_equals_the_slow_truth(where: str) -> None:
    _, params, axes = two_deep()
    g = drawn(axes, 0)
    run = jax.jit(lambda p, g: ws.match.act(p, axes, g)) if where == "jit" else lambda p, g: ws.match.act(p, axes, g)
    given = params if where == "host" else jax.tree.map(jnp.asarray, params)
    moved = ws.core.containers.as_params(run(given, g)).leaves
    for path, w in ws.core.containers.as_params(params).leaves.items():
        np.testing.assert_array_equal(moved[path], slow_act(np.asarray(w), axes.layout[path], axes, g))


def equal(a: Any, b: Any) -> bool:
    return bool(jax.tree.all(jax.tree.map(lambda x, y: (np.asarray(x) == np.asarray(y)).all(), a, b)))


def test_group_laws() -> None:
    _, params, axes = two_deep()
    g, h, e = drawn(axes, 1), drawn(axes, 2), ws.match.identity(axes)
    act = lambda p, g: ws.match.act(p, axes, g)  # noqa: E731
    assert equal(act(params, e), params)
    assert equal(act(act(params, h), g), act(params, ws.match.compose(axes, g, h)))
    assert not equal(act(act(params, h), g), act(params, ws.match.compose(axes, h, g)))
    back = ws.match.inverse(axes, g)
    assert equal(back, jax.jit(lambda g: ws.match.inverse(axes, g))(g))
    gh = ws.match.compose(axes, g, h)
    assert equal(gh, jax.jit(lambda g, h: ws.match.compose(axes, g, h))(g, h))
    assert equal(ws.match.compose(axes, back, g), e) and equal(ws.match.compose(axes, g, back), e)
    assert equal(act(act(params, g), back), params)


def test_random_elements() -> None:
    _, _, axes = two_deep()
    g, again, other = (ws.match.random_element(axes, key=jax.random.key(k)) for k in (0, 0, 1))
    assert equal(g, again) and not equal(g, other)
    for name, group in axes.groups.items():
        assert g[name].shape == group.shape and g[name].dtype == jnp.int32
        np.testing.assert_array_equal(np.sort(g[name], -1), np.broadcast_to(np.arange(group.size), group.shape))
    (name,) = [n for n, v in axes.groups.items() if v.shape == (3, 10)]
    assert len({tuple(row) for row in np.asarray(g[name])}) == 3, "layers share a permutation"
    alone = Symmetries("permutation", {name: axes.groups[name]}, axes.layout)
    assert equal(ws.match.random_element(alone, key=jax.random.key(0))[name], g[name])
    with pytest.raises(SideTreeError, match=r"jax\.random\.key"):
        ws.match.random_element(axes, key=jax.random.PRNGKey(0))


P = {
    "a": {"kernel": jnp.arange(12.0).reshape(3, 4), "bias": jnp.arange(4.0)},
    "b": {"kernel": jnp.arange(8.0).reshape(4, 2)},
}
RULES = {"a/kernel": (None, "h"), "a/bias": ("h",), "b/kernel": ("h", None)}
G = {"h": jnp.array([2, 0, 3, 1])}


def mlp(p: Any, x: Any) -> Any:
    return jnp.maximum(x @ p["a"]["kernel"] + p["a"]["bias"][None], 0) @ p["b"]["kernel"]


@pytest.mark.parametrize("spec", [RULES, ws.Axes({"a/kernel": "in out:h", "a/bias": "out:h", "b/kernel": "in:h out"})])
def test_rules_by_hand(spec: Any) -> None:
    moved = ws.match.act(P, spec, G)
    np.testing.assert_array_equal(moved["a"]["kernel"], np.asarray(P["a"]["kernel"])[:, [2, 0, 3, 1]])
    np.testing.assert_array_equal(moved["b"]["kernel"], np.asarray(P["b"]["kernel"])[[2, 0, 3, 1]])
    assert equal(moved, ws.match.act(P, ws.trace.axes(mlp, P, jnp.ones((1, 3))), {"a": G["h"]}))


@pytest.mark.parametrize(
    ("spec", "error", "says"),
    [
        ({**RULES, "a/bias": ("h", None)}, ShapeError, r"'a/bias' names 2 axes, but a/bias has shape \(4,\)"),
        ({**RULES, "a/kernel": ("h", None)}, ShapeError, r"'h' has 3 coordinates in a/kernel and 4 in a/bias"),
        ({**RULES, "c/kernel": ("h", None)}, SelectionError, r"'c/kernel' matches none of 3 leaves"),
        ({"a/bias": (None,)}, SelectionError, "no axis has a group"),
    ],
)
def test_wrong_rules(spec: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        ws.match.act(P, spec, G)


@pytest.mark.parametrize(
    ("g", "says"),
    [
        ({}, "lacks h"),
        ({**G, "k": jnp.arange(3)}, "has also k"),
        ({"h": jnp.arange(3)}, r"shape \(3,\), wanted \(4,\)"),
        ({"h": jnp.arange(4.0)}, "float32, wanted integer"),
        ({"h": jnp.array([0, 1, 1, 3])}, r"no permutation of 0\.\.3"),
    ],
)
def test_wrong_elements(g: Any, says: str) -> None:
    with pytest.raises(ShapeError, match=says):
        ws.match.act(P, RULES, g)


def test_wrong_trees() -> None:
    axes = ws.trace.axes(mlp, P, jnp.ones((1, 3)))
    g = ws.match.identity(axes)
    with pytest.raises(TreeMismatch, match="lacks b/kernel"):
        ws.match.act({"a": P["a"]}, axes, g)
    with pytest.raises(ShapeError, match=r"b/kernel has shape \(5, 2\), but axes were traced with \(4, 2\)"):
        ws.match.act({**P, "b": {"kernel": jnp.ones((5, 2))}}, axes, g)


def test_invariance_is_checked() -> None:
    x = jnp.ones((1, 3))
    assert ws.match.check_invariance(mlp, P, RULES, G, x) <= 1e-6
    checked = ws.match.act_checked(mlp, P, RULES, G, x)
    assert checked.error <= 1e-6
    jax.tree.map(np.testing.assert_array_equal, checked.params, ws.match.act(P, RULES, G))
    wrong = {"a/kernel": (None, "h"), "a/bias": ("k",), "b/kernel": ("h", None)}
    with pytest.raises(ws.WspaceError, match="groups that alone change it: k;"):
        ws.match.act_checked(mlp, P, wrong, {"h": jnp.arange(4), "k": G["h"]}, x)
    with pytest.raises(ws.WspaceError, match="the function changes by nan"):
        ws.match.check_invariance(lambda p, x: mlp(p, x) / 0, P, RULES, G, x)


def test_other_trees_and_dtypes() -> None:
    """Moments of an optimizer and shapes alone go through; leaves without a group are the same objects."""
    extra = jnp.ones(3)
    with_extra = {**jax.tree.map(lambda x: x.astype(jnp.bfloat16), P), "count": extra}
    moved = ws.match.act(with_extra, RULES, G)
    assert moved["count"] is extra and moved["a"]["bias"].dtype == jnp.bfloat16
    shapes = jax.eval_shape(lambda p: ws.match.act(p, RULES, G), P)
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, P)


def test_many_elements_at_once() -> None:
    gs = {"h": jnp.stack([G["h"], jnp.arange(4)])}
    both = jax.vmap(lambda g: ws.match.act(P, RULES, g))(gs)
    assert equal(jax.tree.map(lambda x: np.asarray(x)[0], both), ws.match.act(P, RULES, G))
    assert equal(jax.tree.map(lambda x: np.asarray(x)[1], both), P)


def test_tables() -> None:
    member = Member(("w",), 0, 0, 1)
    axes = Symmetries(
        "permutation",
        {"<w>": Group("<w>", 2, (member,), ("i",), (3,))},
        {("w",): ((Strip(0, (Factor("<w>", 2, 1),)),),)},
    )
    assert str(axes).splitlines() == [
        "1 permutation group on 1 of 1 leaves",
        "group  size               members",
        "<w>    2 for each of 3 i  w[0]",
    ]
    assert "&lt;w&gt;" in axes._repr_html_()
