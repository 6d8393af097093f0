"""If this were deleted, a residual stream could be said to turn where something between depends on its axes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import wspace as ws
from tests.trace.test_rules import X, between, layered, rows, tree
from tests.trace.zoo import ZOO

WHOLE = {((4,), "w[1] v[0]")}
CASES: dict[str, tuple[Any, set[tuple[tuple[int, ...], str]]]] = {
    "linear": (between(lambda p, h: -2 * h), WHOLE),
    "length": (between(lambda p, h: h * lax.rsqrt(jnp.square(h).mean(-1, keepdims=True))), WHOLE),
    "length by itself": (between(lambda p, h: h / jnp.linalg.norm(h, axis=-1, keepdims=True)), WHOLE),
    "length by einsum": (between(lambda p, h: h * jnp.einsum("bi,bi->b", h, h)[:, None]), WHOLE),
    "bias": (between(lambda p, h: h + p["c"][None], c=(4,)), {((4,), "w[1] c[0] v[0]")}),
    "one coordinate decides": (between(lambda p, h: jnp.where(h[:, :1] > 0, h, 0)), {((3,), "w[1] v[0]")}),
    "rows are dropped": (between(lambda p, h: jnp.where(np.array([[True], [False]]), h, 0)), WHOLE),
    "rows are filled": (between(lambda p, h: jnp.where(np.array([[True], [False]]), h, 1)), set()),
    "times an even constant": (between(lambda p, h: h * np.full((1, 4), 3, np.float32)), WHOLE),
    "times a constant": (between(lambda p, h: h * np.arange(4, dtype=np.float32)[None]), set()),
    "plus an even constant": (between(lambda p, h: h + np.full((1, 4), 3, np.float32)), set()),
    "plus one": (between(lambda p, h: h + 1), set()),
    "gain": (between(lambda p, h: h * p["c"][None], c=(4,)), set()),
    "relu": (between(lambda p, h: jax.nn.relu(h)), set()),
    "mean": (between(lambda p, h: h - h.mean(-1, keepdims=True)), set()),
    "largest": (between(lambda p, h: h / h.max(-1, keepdims=True)), set()),
    "fourth powers": (between(lambda p, h: h / jnp.square(jnp.square(h)).sum(-1, keepdims=True)), set()),
    "squares": (between(lambda p, h: jnp.square(h)), set()),
    "weighed squares": (between(lambda p, h: h * (jnp.square(h) @ p["c"]), c=(4, 1)), set()),
    "product with another": (between(lambda p, h: h * (X @ p["u"]), u=(3, 4)), set()),
    "half": (
        between(lambda p, h: h[:, :2] @ p["u"] + h, u=(2, 4)),
        {((2,), "w[1] u[1] v[0]"), ((2,), "w[1] u[0] u[1] v[0]")},
    ),
    "padded with zeros": (between(lambda p, h: jnp.pad(h, ((0, 0), (2, 0))), b=6), {((4,), "w[1] v[0]")}),
    "padded with ones": (between(lambda p, h: jnp.pad(h, ((0, 1), (0, 0)), constant_values=1)), set()),
    "to integers": (between(lambda p, h: h.astype(jnp.int32).astype(jnp.float32)), set()),
    "reversed tokens": (between(lambda p, h: h[::-1].cumsum(0)), WHOLE),
    "for each head": (
        between(lambda p, h: jnp.einsum("bhi,hij->bhj", h.reshape(2, 2, 3), p["c"]).reshape(2, 6), 6, 6, c=(2, 3, 3)),
        {((2, 3), "w[1] c[1]"), ((2, 3), "c[2] v[0]")},
    ),
    "self-tied": (between(lambda p, h: h + h @ p["u"], u=(4, 4)), {((4,), "w[1] u[0] u[1] v[0]")}),
    "carry from zeros": (
        between(lambda p, h: lax.scan(lambda c, u: (c + h * u.sum(), None), jnp.zeros_like(h), p["u"])[0], u=(3, 2)),
        WHOLE,
    ),
    "carry that one is added to": (
        between(lambda p, h: lax.scan(lambda c, u: (c + 1, None), jnp.zeros_like(h), None, 3)[0] + h),
        set(),
    ),
    "layers": (
        layered(lambda p, h, k: h @ p["u"][k] @ p["d"][k]),
        {((4,), "w[1] u[1] d[2] v[0]"), ((3, 5), "u[2] d[1]")},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_groups_of(name: str) -> None:
    (apply, params), wanted = CASES[name]
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        axes = ws.trace.axes(apply, params, X, kind="orthogonal")
        found = {(g.shape, tuple(sorted(str(m) for m in g.members))) for g in axes.groups.values()}
        assert found == {(shape, tuple(sorted(members.split()))) for shape, members in wanted}
        if axes.groups:
            g = ws.match.random_element(axes, key=jax.random.key(0))
            ws.match.check_invariance(apply, params, axes, g, X)


# each of 2 blocks: head_dim of value for each key-value head; the stream, once its norms have no gains
COUNTED = {
    "llama": ({(2, 4): 2}, {(8,): 1, (2, 4): 2}),
    "llama-scanned": ({(3, 2, 4): 1}, {(8,): 1, (3, 2, 4): 1}),
    "llama-unrolled": ({(3, 2, 4): 1}, {(8,): 1, (3, 2, 4): 1}),
    "nnx-attention": ({(2, 4): 2}, {(8,): 1, (2, 4): 2}),  # query and key have no positions: they turn too
    "gpt": ({(2, 4): 4}, {(2, 4): 4}),  # LayerNorm takes the mean away: the stream's axes are fixed
    "mlp": ({}, {}),
}


@pytest.mark.parametrize("name", COUNTED)
def test_groups_are_those_counted_by_hand(name: str) -> None:
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        apply, params, inputs = ZOO[name].make()
        with_gains, without = COUNTED[name]
        axes = ws.trace.axes(apply, params, *inputs, kind="orthogonal")
        assert Counter(g.shape for g in axes.groups.values()) == with_gains, str(axes)
        if with_gains == without:
            return
        even = jax.tree_util.tree_map_with_path(
            lambda path, x: jnp.ones_like(x) if "norm" in jax.tree_util.keystr(path) else x, params
        )
        axes = ws.trace.axes(apply, even, *inputs, kind="orthogonal", ones="norm")
        assert Counter(g.shape for g in axes.groups.values()) == without, str(axes)
        assert not any("norm" in str(path) for path in axes.covered)


def test_what_hinders_is_said() -> None:
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        apply, params, inputs = ZOO["llama"].make()
        axes = ws.trace.axes(apply, params, *inputs, kind="orthogonal")
    assert axes.fixed[("embed",)][1] == "multiplied by layers/0/norm1"


def test_ones_are_looked_at() -> None:
    apply, params = (lambda p, x: x @ p["w"] * p["c"][None] @ p["v"]), tree(w=(3, 4), c=(4,), v=(4, 2))
    with pytest.raises(ws.core.errors.SelectionError, match="c are not 1 everywhere"):
        ws.trace.axes(apply, params, X, kind="orthogonal", ones="c")
    with pytest.raises(ws.core.errors.SelectionError, match="'gain' matches none of 3"):
        ws.trace.axes(apply, params, X, kind="orthogonal", ones="gain")
    shapes = jax.eval_shape(lambda: params)
    assert rows(ws.trace.axes(apply, shapes, X, kind="orthogonal", ones="c")) == WHOLE
