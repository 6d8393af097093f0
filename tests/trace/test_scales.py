"""If this were deleted, a scale could be said to cancel where something that is not homogeneous lies between."""

from __future__ import annotations

from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wspace as ws
from tests.trace.test_rules import X, between, rows
from tests.trace.zoo import ZOO
from wspace.core.containers import show
from wspace.data import minilm

COUNTED: dict[str, dict[tuple[int, ...], int]] = {
    "mlp": {(8,): 1, (12,): 1},
    "lenet": {(10,): 1},  # tanh after the convolutions
    "vgg": {(4,): 2, (6,): 2, (8,): 1},
    "resnet20-layer": {(4,): 4, (6,): 4, (8,): 4},  # what each norm gives: 9 insides and 3 streams
    # and what each of 21 norms takes: 7 of width 4, 7 of 6, 7 of 8
    "resnet20-batch": {(4,): 4 + 7, (6,): 4 + 7, (8,): 4 + 7},
    "unet": {(8,): 1, (6,): 2, (4,): 2, (2, 2): 1, (2, 3): 1},
    "mobilenet": {(3,): 1, (2, 3): 1},
    "lstm": {},
    "experts": {(6,): 1},
    # each of 2 blocks: 2 norms, query against key, value against output
    "gpt": {(8,): 4, (2, 4): 4},
    # each of 2 blocks: 2 norms, pairs of rotary halves, value, hidden; last norm
    "llama": {(8,): 5, (2, 2): 2, (2, 4): 2, (10,): 2},
    "llama-scanned": {(8,): 1, (3, 8): 2, (3, 2, 2): 1, (3, 2, 4): 1, (3, 10): 1},
    "llama-unrolled": {(8,): 1, (3, 8): 2, (3, 2, 2): 1, (3, 2, 4): 1, (3, 10): 1},
}


@pytest.mark.parametrize("name", COUNTED)
def test_groups_are_those_counted_by_hand(name: str) -> None:
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        apply, params, inputs = ZOO[name].make()
        axes = ws.trace.axes(apply, params, *inputs, kind="scale")
        assert Counter(g.shape for g in axes.groups.values()) == COUNTED[name], str(axes)
        rng = np.random.default_rng(0)
        g = {n: np.exp2(rng.uniform(-1, 1, group.shape)).astype(np.float32) for n, group in axes.groups.items()}
        assert ws.match.check_invariance(jax.jit(apply), params, axes, g, *inputs, tolerance=1e-5) <= 1e-5


CASES: dict[str, tuple[Any, set[tuple[tuple[int, ...], str]]]] = {
    "linear": (between(lambda p, h: -2 * h), {((4,), "w[1] v[0]^-1")}),
    "leaky": (between(lambda p, h: jnp.where(h > 0, h, 0.1 * h)), {((4,), "w[1] v[0]^-1")}),
    "bias": (between(lambda p, h: h + p["c"][None], c=(4,)), {((4,), "w[1] c[0] v[0]^-1")}),
    "shifted": (between(lambda p, h: h + 1), set()),
    "compared with 1": (between(lambda p, h: jnp.where(h > 1, h, 0)), set()),
    "rounded": (between(lambda p, h: h.astype(jnp.int32).astype(jnp.float32)), set()),
    "tanh": (between(lambda p, h: jnp.tanh(h)), set()),
    "squared": (between(lambda p, h: jnp.square(h)), {((4,), "w[1] v[0]^-2")}),
    "root": (between(lambda p, h: jnp.sqrt(jnp.abs(h))), {((4,), "w[1] v[0]^-0.5")}),
    "gate": (between(lambda p, h: h * (p["c"] / p["d"])[None], c=(4,), d=(4,)), {
        ((4,), "w[1] c[0]^-1"), ((4,), "w[1] v[0]^-1"), ((4,), "w[1] d[0]"),
    }),
    "summed": (between(lambda p, h: h - h.mean(-1, keepdims=True)), set()),
    "largest": (between(lambda p, h: h - h.max(-1, keepdims=True)), set()),
    "sign": (between(lambda p, h: jnp.sign(h)), {((4,), "w[1]")}),
    "unread rows": (between(lambda p, h: h + p["c"][:1], c=(3, 4)), {((4,), "w[1] c[1] v[0]^-1")}),
    "reversed": (between(lambda p, h: h[:, ::-1]), set()),
    "without a rule": (between(lambda p, h: jnp.fft.fft(h).real), set()),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_groups_of(name: str) -> None:
    (apply, params), wanted = CASES[name]
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        axes = ws.trace.axes(apply, params, X, kind="scale")
        assert len(axes.groups) == len(wanted)
        if name != "gate":  # any three that span the same do
            assert rows(axes) == wanted
        if axes.groups:
            ws.match.check_invariance(apply, params, axes, ws.match.random_element(axes, key=jax.random.key(0)), X)


def test_what_makes_a_weights_inputs() -> None:
    """For each weight whose inputs can be scaled: the other weights that read them, and the leaves that make them."""
    asked = {
        ("mlp", "b/kernel", 0): (set(), {"a/kernel", "a/bias"}),
        ("mlp", "a/kernel", 0): None,  # the model's input
        ("gpt", "h0/qkv/kernel", 0): (set(), {"h0/norm1/scale", "h0/norm1/bias"}),
        ("gpt", "h0/up/kernel", 0): (set(), {"h0/norm2/scale", "h0/norm2/bias"}),
        ("gpt", "h0/proj/kernel", 0): (set(), {"h0/qkv/kernel", "h0/qkv/bias"}),
        ("gpt", "h0/down/kernel", 0): None,  # gelu
        ("llama", "layers/1/q", 0): ({"layers/1/k", "layers/1/v"}, {"layers/1/norm1"}),
        ("llama", "layers/1/up", 0): ({"layers/1/gate"}, {"layers/1/norm2"}),
        ("llama", "layers/1/o", 0): (set(), {"layers/1/v"}),
        ("llama", "layers/1/down", 0): (set(), {"layers/1/up"}),
        ("llama", "head", 0): (set(), {"norm"}),
        ("minilm", "encoder.layer.2.attention.output.dense.weight", 1): (
            set(),
            {f"encoder.layer.2.attention.self.value.{name}" for name in ("weight", "bias")},
        ),
        # norms come after the sums: what they give goes on in the stream, which nothing can take a factor from
        ("minilm", "encoder.layer.2.attention.self.query.weight", 1): None,
        ("minilm", "encoder.layer.2.intermediate.dense.weight", 1): None,
    }
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        batch = minilm.Batch(jnp.arange(12).reshape(2, 6) + 2000, jnp.ones((2, 6), bool))
        axes = {"minilm": ws.trace.axes(minilm.apply, minilm.shapes(), batch, kind="scale")}
        for name in ("mlp", "gpt", "llama"):
            apply, params, inputs = ZOO[name].make()
            axes[name] = ws.trace.axes(apply, params, *inputs, kind="scale")
    for (model, leaf, axis), wanted in asked.items():
        (path,) = (p for p in axes[model].layout if show(p) == leaf)
        found = axes[model].along(path, axis)
        assert (wanted is None) == (not found), leaf
        for group in found:
            own = {m.exponent for m in group.members if m.path == path and m.axis == axis}
            same = {show(m.path) for m in group.members if {m.exponent} == own and m.path != path}
            others = {show(m.path) for m in group.members if {-m.exponent} == own}
            assert (same, others) == wanted, leaf


def test_group_laws_and_wrong_elements() -> None:
    (apply, params), _ = CASES["bias"]
    axes = ws.trace.axes(apply, params, X, kind="scale")
    (name,) = axes.groups
    g, h = {name: jnp.array([1.0, 2, 4, 0.5])}, {name: jnp.array([2.0, 2, 0.25, 1])}
    both = ws.match.act(ws.match.act(params, axes, h), axes, g)
    for leaf in both:
        np.testing.assert_array_equal(both[leaf], ws.match.act(params, axes, ws.match.compose(axes, g, h))[leaf])
        back = ws.match.act(ws.match.act(params, axes, g), axes, ws.match.inverse(axes, g))
        np.testing.assert_array_equal(back[leaf], params[leaf])
    np.testing.assert_array_equal(both["v"], params["v"] / np.array([[2.0], [4], [1], [0.5]], np.float32))
    for wrong, says in ((jnp.arange(4), "wanted floating"), (jnp.array([1.0, -1, 1, 1]), "not positive")):
        with pytest.raises(ws.core.errors.ShapeError, match=says):
            ws.match.act(params, axes, {name: wrong})
