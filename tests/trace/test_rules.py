"""If this were deleted, a primitive could keep a group that it breaks, and only a model that has it would show it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import wspace as ws

X = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3)), jnp.float32)
Model = Callable[[dict[str, Any], Any], Any]


def tree(**shapes: tuple[int, ...]) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def between(f: Callable[..., Any], a: int = 4, b: int = 4, **extra: tuple[int, ...]) -> tuple[Model, dict[str, Any]]:
    """x -> hidden of size a -> f -> hidden of size b -> output."""
    return lambda p, x: f(p, x @ p["w"]) @ p["v"], tree(w=(3, a), v=(b, 2), **extra)


@jax.custom_vjp
def own_gradient(h: Any) -> Any:
    return jnp.sin(h)


own_gradient.defvjp(lambda h: (jnp.sin(h), h), lambda h, g: (g,))


def rows(axes: Any) -> set[tuple[tuple[int, ...], str]]:
    return {(g.shape, " ".join(str(m) for m in g.members)) for g in axes.groups.values()}


WHOLE = {((4,), "w[1] v[0]")}
CASES: dict[str, tuple[tuple[Model, dict[str, Any]], set[tuple[tuple[int, ...], str]]]] = {
    "element by element": (between(lambda p, h: jnp.tanh(h) * 2 + 1), WHOLE),
    "norm": (between(lambda p, h: h / jnp.linalg.norm(h, axis=-1, keepdims=True)), WHOLE),
    "softmax": (between(lambda p, h: jax.nn.softmax(h)), WHOLE),
    "standardized weights": (between(lambda p, h: h * (p["w"] - p["w"].mean(0, keepdims=True)).std(0)[None]), WHOLE),
    "clip": (between(lambda p, h: jnp.clip(h, -1, 1)), WHOLE),
    "where": (between(lambda p, h: jnp.where(h > 0, h, 0.1 * h)), WHOLE),
    "threshold of the sorted": (between(lambda p, h: h * (h >= jnp.sort(h, -1)[:, 2:3]).astype(h.dtype)), WHOLE),
    "threshold of the largest": (between(lambda p, h: h * (h >= lax.top_k(h, 2)[0][:, 1:]).astype(h.dtype)), WHOLE),
    "chosen by one_hot": (between(lambda p, h: h * jax.nn.one_hot(h.argmax(-1), 4)), WHOLE),
    "bfloat16": (between(lambda p, h: h.astype(jnp.bfloat16).astype(jnp.float32)), WHOLE),
    "custom_jvp": (between(lambda p, h: jax.nn.relu(h)), WHOLE),
    "custom_vjp": (between(lambda p, h: own_gradient(h)), WHOLE),
    "remat and jit": (between(lambda p, h: jax.checkpoint(jax.jit(jnp.sin))(h)), WHOLE),
    "while": (between(lambda p, h: lax.while_loop(lambda c: c.sum() < 9, lambda c: jnp.exp(c), h)), WHOLE),
    "fori": (between(lambda p, h: lax.fori_loop(0, 3, lambda i, c: jnp.sin(c) + h, h)), WHOLE),
    "cond": (between(lambda p, h: lax.cond(h.sum() > 0, jnp.sin, jnp.cos, h)), WHOLE),
    "vmap": (between(lambda p, h: jax.vmap(jnp.tanh)(h)), WHOLE),
    "transposed": (between(lambda p, h: jnp.sin(h.T).T), WHOLE),
    "stacked and summed": (between(lambda p, h: jnp.stack([h, 2 * h], -1).sum(-1)), WHOLE),
    "constant vector": (between(lambda p, h: h + np.arange(4, dtype=np.float32)[None]), set()),
    "even constant": (between(lambda p, h: h + np.full((1, 4), 3, np.float32)), WHOLE),
    "iota": (between(lambda p, h: h * lax.iota(jnp.float32, 4)[None]), set()),
    "cumulative": (between(lambda p, h: jnp.cumsum(h, -1)), set()),
    "reversed": (between(lambda p, h: h[:, ::-1]), set()),
    "rolled": (between(lambda p, h: h + jnp.roll(h, 1, -1)), set()),
    "sorted": (between(lambda p, h: jnp.sort(h, -1)), {((4,), "w[1]")}),
    "argmax as a number": (between(lambda p, h: h * h.argmax(-1).astype(h.dtype)[:, None]), set()),
    "one number of it": (between(lambda p, h: h * h[:, :1]), {((3,), "w[1] v[0]")}),
    "dynamic number of it": (between(lambda p, h: h * lax.dynamic_slice_in_dim(h, 1, 1, 1)), set()),
    "looked up": (between(lambda p, h: h * h[:, jnp.array([0, 2, 2, 1])]), set()),
    "without a rule": (between(lambda p, h: jnp.fft.fft(h).real), set()),
    "squared with itself": (
        between(lambda p, h: h @ p["u"] @ p["u"].T, u=(4, 4)),
        {((4,), "w[1] u[0] v[0]"), ((4,), "u[1]")},
    ),
    "self-tied": (between(lambda p, h: h + h @ p["u"], u=(4, 4)), {((4,), "w[1] u[0] u[1] v[0]")}),
    "gated halves": (
        between(lambda p, h: jax.nn.silu(h[:, :2]) * h[:, 2:], b=2),
        {((2,), "w[1] w[1] v[0]")},
    ),
    "unequal parts": (between(lambda p, h: jnp.concatenate([jnp.sin(h[:, :3]), h[:, 3:]], -1)), {((3,), "w[1] v[0]")}),
    "maxout": (between(lambda p, h: h.reshape(2, 2, 3).max(-1), 6, 2), {((2,), "w[1] v[0]"), ((2, 3), "w[1]")}),
    "interleaved": (between(lambda p, h: h[:, ::2] * h[:, 1::2], b=2), {((2,), "w[1] v[0]")}),
    "padded": (between(lambda p, h: jnp.pad(h, ((0, 0), (2, 0))), b=6), {((4,), "w[1] v[0]"), ((2,), "v[0]")}),
    "shared by heads": (
        between(lambda p, h: (h.reshape(2, 2, 3) + p["c"][None, None]).reshape(2, 6), 6, 6, c=(3,)),
        {((3, 2), "w[1] v[0]"), ((3,), "w[1] c[0] v[0]")},
    ),
    "for each head": (
        between(lambda p, h: (h.reshape(2, 2, 3) + p["c"][None]).reshape(2, 6), 6, 6, c=(2, 3)),
        {((2,), "w[1] c[0] v[0]"), ((2, 3), "w[1] c[1] v[0]")},
    ),
    "einsum over stacks": (
        between(lambda p, h: jnp.einsum("bi,eij,ejk->bk", h, p["u"], p["t"]), u=(2, 4, 5), t=(2, 5, 4)),
        {((4,), "w[1] u[1]"), ((2,), "u[0] t[0]"), ((2, 5), "u[2] t[1]"), ((4,), "t[2] v[0]")},
    ),
    "scan with a constant": (
        between(
            lambda p, h: lax.scan(lambda c, u: (c + jnp.sin(c @ u + p["d"][None]) @ u.T, None), h, p["u"])[0],
            u=(3, 4, 5),
            d=(5,),
        ),
        {((4,), "w[1] u[1] v[0]"), ((5,), "u[2] d[0]")},
    ),
    "scan that gives a stack": (
        between(lambda p, h: lax.scan(lambda c, u: (c, c * u), h, p["u"])[1].sum(0), u=(3, 1, 4)),
        {((4,), "w[1] u[2] v[0]")},
    ),
}


def layered(
    step: Callable[..., Any], n: int = 3, read: Any = range(3), **more: tuple[int, ...]
) -> tuple[Model, dict[str, Any]]:
    """A residual stream of 4 and layers of 5 in stacks; `step(p, h, k)` is what layer k adds."""

    def apply(p: Any, x: Any) -> Any:
        h = x @ p["w"]
        for k in read:
            h = h + step(p, h, k)
        return h @ p["v"]

    return apply, tree(w=(3, 4), v=(4, 2), u=(n, 4, 5), d=(n, 5, 4), **more)


def block(p: Any, h: Any, k: int, j: int | None = None) -> Any:
    return jnp.sin(h @ p["u"][k]) @ p["d"][k if j is None else j]


STREAM = ((4,), "w[1] u[1] d[2] v[0]")
SHARED = {STREAM, ((5,), "u[2] d[1]")}
APART = {STREAM, ((3, 5), "u[2] d[1]")}
UNROLLED: dict[str, tuple[tuple[Model, dict[str, Any]], set[tuple[tuple[int, ...], str]]]] = {
    "by index": (layered(block), APART),
    "cast before": (layered(lambda p, h, k: block(jax.tree.map(lambda w: w * 2, p), h, k)), APART),
    "by split": (layered(lambda p, h, k: jnp.sin(h @ jnp.split(p["u"], 3)[k][0]) @ p["d"][k]), APART),
    "by unstack": (layered(lambda p, h, k: jnp.sin(h @ jnp.unstack(p["u"])[k]) @ p["d"][k]), APART),
    "backwards": (layered(lambda p, h, k: block(p, h, 2 - k)), APART),
    "in each layer a scan": (
        layered(lambda p, h, k: lax.scan(lambda c, _: (jnp.sin(c), None), h @ p["u"][k], None, 2)[0] @ p["d"][k]),
        APART,
    ),
    "a bias of each layer": (
        layered(lambda p, h, k: jnp.sin(h @ p["u"][k] + p["c"][k][None]) @ p["d"][k], c=(3, 5)),
        {STREAM, ((3, 5), "u[2] c[1] d[1]")},
    ),
    "a bias for all layers": (
        layered(lambda p, h, k: jnp.sin(h @ p["u"][k] + p["c"][None]) @ p["d"][k], c=(5,)),
        {STREAM, ((5,), "u[2] c[0] d[1]")},
    ),
    "another order": (layered(lambda p, h, k: block(p, h, k, 2 - k)), SHARED),
    "a layer twice": (layered(lambda p, h, k: block(p, h, k) + block(p, h, 0)), APART),
    "two layers put together": (
        layered(lambda p, h, k: jnp.sin(h @ p["u"][k] + h @ p["u"][0]) @ p["d"][k]),
        SHARED,
    ),
    "from one layer to the next": (
        (
            lambda p, x: x @ p["u"][0] @ p["d"][0] @ p["u"][1] @ p["d"][1],
            tree(u=(2, 3, 5), d=(2, 5, 3)),
        ),
        {((2, 5), "u[2] d[1]")},
    ),
    "a mean over layers": (layered(lambda p, h, k: block(p, h, k) + h @ p["u"].mean(0) @ p["d"][k]), SHARED),
    "one layer is not read": (layered(block, read=(0, 2)), SHARED),
    "half as many layers": (layered(lambda p, h, k: block(p, h, 2 * k, 2 * k) + block(p, h, 2 * k + 1), n=6), {
        STREAM, ((6, 5), "u[2] d[1]"),
    }),
    "experts in layers": (
        layered(
            lambda p, h, k: sum(jnp.sin(h @ p["s"][k, j]) @ p["t"][k, j] for j in range(3)),
            s=(3, 3, 4, 5),
            t=(3, 3, 5, 4),
        ),
        {((4,), "w[1] s[2] t[3] v[0]"), ((3, 3, 5), "s[3] t[2]")},
    ),
    "query and key in one stack": (
        layered(lambda p, h, k: jnp.sin((h @ p["q"][0]) * (h @ p["q"][1])) @ p["d"][k], q=(2, 4, 5)),
        {((4,), "w[1] q[1] d[2] v[0]"), ((5,), "q[2] d[1]")},
    ),
}  # fmt: skip


def unordered(found: set[tuple[tuple[int, ...], str]]) -> set[tuple[tuple[int, ...], frozenset[str]]]:
    return {(shape, frozenset(members.split())) for shape, members in found}


@pytest.mark.parametrize("name", UNROLLED)
def test_layers_taken_by_index(name: str) -> None:
    """Per layer where nothing puts layers together, else one for all: a wrong guess changes the function."""
    (apply, params), wanted = UNROLLED[name]
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        axes = ws.trace.axes(apply, params, X)
        assert unordered(rows(axes)) == unordered(wanted)
        ws.match.check_invariance(apply, params, axes, ws.match.random_element(axes, key=jax.random.key(0)), X)


@pytest.mark.parametrize("name", CASES)
def test_groups_of(name: str) -> None:
    (apply, params), wanted = CASES[name]
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        axes = ws.trace.axes(apply, params, X)
        assert rows(axes) == set(wanted)
        if axes.groups:
            ws.match.check_invariance(apply, params, axes, reversed_order(axes), X)


def reversed_order(axes: Any) -> dict[str, Any]:
    return {name: np.broadcast_to(np.arange(g.size)[::-1], g.shape) for name, g in axes.groups.items()}


def test_what_has_no_rule_is_named() -> None:
    (apply, params), _ = CASES["without a rule"]
    axes = ws.trace.axes(apply, params, X)
    assert axes.unknown == {"fft": 1} and "fft (1x)" in str(axes) and "fft (1x)" in axes._repr_html_()
    assert "fft" in axes.fixed[("w",)][1] and axes.fixed[("w",)][0] == "input"


def test_rows_that_are_not_read_stay() -> None:
    """A permutation of rows that this call does not read is no symmetry of the next call."""
    apply, params = (lambda p, x: x + p["positions"][:2] @ p["v"]), tree(positions=(5, 4), v=(4, 3), rest=(4,))
    axes = ws.trace.axes(apply, params, X)
    assert rows(axes) == {((4,), "positions[1] v[0]")}
    assert axes.unused == (("rest",),)


def test_nothing_is_computed() -> None:
    axes = ws.trace.axes(
        *between(lambda p, h: h)[:1],
        {k: jax.ShapeDtypeStruct((4, 4), jnp.float32) for k in "wv"},
        jax.ShapeDtypeStruct((1, 4), jnp.float32),
    )
    assert rows(axes) == WHOLE


def test_unknown_kind() -> None:
    with pytest.raises(ws.WspaceError, match=r"kind 'permutations' is not known\. Did you mean 'permutation'"):
        ws.trace.axes(lambda p: p, {}, kind="permutations")


OPS: list[Callable[[Any, Any], Any]] = [
    lambda h, w: jnp.sin(h) + h,
    lambda h, w: h @ w,
    lambda h, w: jnp.maximum(h, 0) * w[:1] + w[1:2],
    lambda h, w: jnp.where(h.reshape(2, 4, 3) > 0, 1, 2).astype(jnp.float32).reshape(2, 12) * h,
    lambda h, w: h @ w @ w.T,
    lambda h, w: (h.reshape(2, 3, 4) * w[0].reshape(1, 3, 4)).reshape(2, 12),
    lambda h, w: h.reshape(2, 4, 3).swapaxes(1, 2).reshape(2, 12),
    lambda h, w: jnp.concatenate([h[:, 8:], h[:, :8]], -1),
    lambda h, w: jnp.concatenate([h[:, :4] * h[:, 4:8], jnp.tanh(h[:, 4:])], -1),
    lambda h, w: h - h.reshape(2, 2, 6).mean(-1).repeat(6, -1),
    lambda h, w: jnp.einsum("bhi,hij->bhj", h.reshape(2, 3, 4), w[:, :4].reshape(3, 4, 4)).reshape(2, 12),
    lambda h, w: jax.nn.softmax(h.reshape(2, 6, 2), 1).reshape(2, 12) + w[3],
    lambda h, w: jnp.tile(h[:, :6], (1, 2)) * h,
    lambda h, w: lax.scan(lambda c, u: (jnp.sin(c + u), c * u), h, w)[0],
    lambda h, w: lax.scan(lambda c, u: (c, c[:, :4] * u[None, :4]), h, w)[1][:3].transpose(1, 0, 2).reshape(2, 12) + h,
    lambda h, w: jnp.pad(h.reshape(2, 3, 4), ((0, 0), (1, 0), (0, 0)))[:, :3].reshape(2, 12) + h,
    lambda h, w: h * jax.nn.one_hot(h.argmax(-1), 12) + h,
    lambda h, w: h + sum(jnp.sin(h @ w.reshape(12, 3, 4)[:, k]) @ w.reshape(3, 4, 12)[k] for k in range(3)),
    lambda h, w: sum(h.reshape(2, 3, 4)[:, k] * w[k, :4] for k in range(3)) @ w[:4],
    lambda h, w: h * lax.rsqrt(jnp.square(h).mean(-1, keepdims=True) + 1e-3),
    lambda h, w: h @ w[:, :4] @ w[:, 4:8].T - h,
    lambda h, w: lax.fori_loop(0, 12, lambda i, c: jnp.sin(c + w[i][None]), h),
    lambda h, w: lax.fori_loop(
        0, 3, lambda i, c: c + jnp.sin(c @ w.reshape(3, 4, 12)[i].T) @ w.reshape(3, 4, 12)[i], h
    ),
]


@pytest.mark.parametrize("seed", range(30))
def test_random_programs(seed: int) -> None:
    """Whatever is composed with whatever, a group that is found is a symmetry, of whatever kind."""
    rng = np.random.default_rng(seed)
    chosen = [OPS[k] for k in rng.integers(0, len(OPS), rng.integers(2, 6))]
    params = {f"w{k}": (rng.standard_normal((12, 12)) / 3).astype(np.float32) for k in range(len(chosen) + 2)}

    def apply(p: Any, x: Any) -> Any:
        h = x @ p["w0"]
        for k, op in enumerate(chosen, 1):
            h = op(h, p[f"w{rng_at[k]}"])
        return h @ p[f"w{len(chosen) + 1}"]

    rng_at = {k: int(rng.integers(1, k + 1)) for k in range(1, len(chosen) + 1)}
    x = jnp.asarray(rng.standard_normal((2, 12)), jnp.float32)
    run = jax.jit(apply)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for kind in ("permutation", "scale", "orthogonal"):
            axes = ws.trace.axes(apply, params, x, kind=kind)
            for _ in range(3 if axes.groups else 0):
                g = {n: drawn(kind, rng, v.shape) for n, v in axes.groups.items()}
                ws.match.check_invariance(run, params, axes, g, x, tolerance=3e-5)


def drawn(kind: str, rng: Any, shape: tuple[int, ...]) -> Any:
    if kind == "scale":
        return np.exp2(rng.uniform(-1, 1, shape)).astype(np.float32)
    if kind == "orthogonal":
        return np.linalg.qr(rng.standard_normal((*shape, shape[-1])))[0].astype(np.float32)
    return rng.permuted(np.broadcast_to(np.arange(shape[-1]), shape), axis=-1)
