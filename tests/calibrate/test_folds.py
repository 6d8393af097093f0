"""Without it a statistic could depend on how the data were cut into batches, count padding, or mix up two models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import wspace as ws
from tests.calibrate.truths import close, filled, gram, normal, patches, tokens
from wspace.core.errors import SelectionError, ShapeError, SideTreeError, TreeMismatch, WspaceError
from wspace.core.fold import Fold
from wspace.stats import Lookup, Rows, Seen

FOLDS: dict[str, Callable[[], Fold]] = {
    name: getattr(ws.stats, name) for name in ("abs_max", "abs_mean", "gram", "mean", "mean_square", "variance")
}

JITTED: dict[tuple[str, str], Any] = {}


def truth(name: str, x: Any, weights: Any) -> Any:
    """The statistics of rows [n, in], from their definitions in float64."""
    x, w = np.asarray(x, np.float64), np.asarray(weights, np.float64)
    mean = np.average(x, 0, w)
    return {
        "abs_max": lambda: np.abs(x[w > 0]).max(0),
        "abs_mean": lambda: np.average(np.abs(x), 0, w),
        "gram": lambda: gram(x, w),
        "mean": lambda: mean,
        "mean_square": lambda: np.average(x**2, 0, w),
        "variance": lambda: np.average((x - mean) ** 2, 0, w),
    }[name]()


@pytest.mark.parametrize("name", FOLDS)
def test_batches_of_unequal_size_and_weights(name: str) -> None:
    x, w = normal(1, 11, 4) + 3, jnp.array([1, 1, 0, 2, 0.5, 0, 1, 1, 0, 3, 1])
    batches = [(x[:2], w[:2]), (x[2:9], w[2:9]), (x[9:], w[9:])]
    model: Any = lambda p, batch: batch[0] @ p["kernel"]  # noqa: E731
    found = ws.calibrate(model, {"kernel": jnp.ones((4, 2))}, batches, [name], weights=lambda batch: batch[1])
    close(found[name], {"kernel": truth(name, x, w)})


@pytest.mark.parametrize("name", FOLDS)
@given(seed=st.integers(0, 99), looked_up=st.booleans())
def test_merge_is_associative_and_commutative_and_zero_is_its_identity(name: str, seed: int, looked_up: bool) -> None:
    fold, rng = FOLDS[name](), np.random.default_rng(seed)
    lift, merge, finish = (JITTED.setdefault((name, f), jax.jit(getattr(fold, f))) for f in ("lift", "merge", "finish"))

    def lifted() -> Any:
        weights = jnp.asarray(rng.integers(0, 2, 4) * rng.integers(0, 3, 4), jnp.float32)
        rows: Any = Rows(jnp.asarray(rng.normal(size=(4, 3)), jnp.float32), weights)
        return lift(Seen(Lookup(jnp.asarray(rng.integers(0, 3, 4)), weights, 3) if looked_up else rows, None))

    def same(a: Any, b: Any) -> None:
        for x, y in zip(jax.tree.leaves(finish(a)), jax.tree.leaves(finish(b)), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)

    a, b, c = lifted(), lifted(), lifted()
    zero = jax.tree.map(jnp.zeros_like, a)
    same(merge(a, b), merge(b, a))
    same(merge(merge(a, b), c), merge(a, merge(b, c)))
    same(merge(a, zero), a)
    same(merge(zero, a), a)


def test_variance_far_from_zero() -> None:
    x = normal(1, 100, 3) + 1e4
    found = ws.calibrate(lambda p, x: x @ p["kernel"], {"kernel": jnp.ones((3, 1))}, [x[:40], x[40:]], "variance")
    close(found["variance"], {"kernel": np.asarray(x, np.float64).var(0)}, 1e-5)


def encoder(p: Any, batch: Any) -> Any:
    """Token mixing, merged axes, pooling: a path of every kind for the weights."""
    ids, mask = batch
    x = p["embed"][ids]
    scores = jnp.where(mask[:, None], jnp.einsum("btd,bsd->bts", x @ p["q"], x), -jnp.inf)
    x = x + jax.nn.softmax(scores, -1) @ x
    flat = jnp.tanh(x.reshape(-1, 4) @ p["flat"])
    x = flat.reshape(x.shape).transpose(1, 0, 2)  # [position, batch, feature]
    x = jnp.tanh(x @ p["turned"])
    pooled = jnp.einsum("tbd,bt->bd", x, mask.astype(jnp.float32))
    return pooled @ p["pooled"], x[0] @ p["first"]


def encoder_inputs(p: Any, ids: Any) -> dict[str, Any]:
    """The rows of one sentence without padding, in numpy."""
    p = jax.tree.map(lambda w: np.asarray(w, np.float64), p)
    x = p["embed"][np.asarray(ids)]
    scores = (x @ p["q"]) @ x.T
    weights = np.exp(scores - scores.max(1, keepdims=True))
    seen = {"embed": np.eye(7)[np.asarray(ids)], "q": x}
    x = x + weights / weights.sum(1, keepdims=True) @ x
    seen["flat"] = x
    x = seen["turned"] = np.tanh(x @ p["flat"])
    x = np.tanh(x @ p["turned"])
    return seen | {"pooled": x.sum(0)[None], "first": x[:1]}


def test_weights_leave_padding_out_wherever_tokens_go() -> None:
    p = filled({"embed": (7, 4), "q": (4, 4), "flat": (4, 4), "turned": (4, 4), "pooled": (4, 2), "first": (4, 2)})
    ids, lengths = tokens(1, 7, 4, 5), [5, 2, 3, 0]
    mask = jnp.arange(5)[None] < jnp.array(lengths)[:, None]
    rows = [encoder_inputs(p, ids[k, :n]) for k, n in enumerate(lengths) if n]
    want = {name: np.concatenate([r[name] for r in rows]) for name in rows[0]}
    assert np.isnan(
        jax.jit(encoder)(p, (ids, mask))[0][3]
    ).all()  # of the empty sentence, which must not spoil the others
    found = ws.calibrate(encoder, p, [(ids, mask)], ["mean", "gram"], weights=lambda batch: batch[1])
    close(found["gram"], {name: gram(x) for name, x in want.items()}, 1e-5)
    close(found["mean"], {name: x.mean(0) for name, x in want.items()}, 1e-5)


def test_weights_of_examples_reach_every_position() -> None:
    model, x = nn.Conv(2, (3, 3), padding="VALID"), normal(1, 3, 5, 4, 2)
    p = filled(jax.eval_shape(model.init, jax.random.key(0), x))
    w = jnp.array([1.0, 0.0, 2.0])
    found = ws.calibrate(model.apply, p, [x], "gram", weights=lambda _: w)
    rows = patches(x, (3, 3)).reshape(3, -1, 18)
    close(found["gram"], {"params/kernel": gram(rows, np.repeat(w, rows.shape[1]))})


def test_tokens_that_can_not_be_followed_are_an_error() -> None:
    p, x = {"embed": normal(2, 7, 4), "kernel": normal(3, 4, 4)}, tokens(1, 7, 2, 5)

    def shuffled(p: Any, ids: Any) -> Any:
        return jnp.sort(p["embed"][ids], 1) @ p["kernel"]

    with pytest.raises(ShapeError, match="kernel: the program mixes tokens"):
        ws.calibrate(shuffled, p, [x], "gram", weights=lambda ids: ids > 0)
    by_example = ws.calibrate(shuffled, p, [x], "gram", weights=lambda ids: jnp.array([1.0, 0.0]))
    rows = np.sort(np.asarray(p["embed"])[np.asarray(x)], 1)[0]
    np.testing.assert_allclose(by_example["gram"]["kernel"], gram(rows), atol=1e-5)


def test_statistics_of_outputs() -> None:
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            x = nn.relu(nn.Conv(6, (3, 3), feature_group_count=2, padding="VALID", name="conv")(x))
            return nn.DenseGeneral((2, 3), name="heads")(x.mean((1, 2)))

    x = normal(1, 4, 6, 5, 2)
    p = filled(jax.eval_shape(Model().init, jax.random.key(0), x))
    conv = nn.Conv(6, (3, 3), feature_group_count=2, padding="VALID", use_bias=False)
    before = np.asarray(jax.jit(conv.apply)({"params": {"kernel": p["params"]["conv"]["kernel"]}}, x))
    pooled = np.maximum(before + p["params"]["conv"]["bias"][None, None, None], 0).mean((1, 2))
    heads = np.einsum("bd,dhe->bhe", pooled, p["params"]["heads"]["kernel"]).reshape(4, 6)
    folds = {"mean": ws.stats.outputs(ws.stats.mean()), "gram": ws.stats.outputs(ws.stats.gram())}
    found = ws.calibrate(Model().apply, p, [x[:1], x[1:]], folds)
    rows = {"params/conv/kernel": before.reshape(-1, 6), "params/heads/kernel": heads}
    close(found["mean"], {name: y.mean(0) for name, y in rows.items()}, 1e-5)
    close(found["gram"], {name: gram(y) for name, y in rows.items()}, 1e-5)


def test_outputs_of_experts_that_share_their_inputs() -> None:
    p, x = {"kernel": normal(2, 3, 4, 2)}, normal(1, 5, 4)
    found = ws.calibrate(
        lambda p, x: jnp.einsum("bd,edf->bef", x, p["kernel"]), p, [x], {"mean": ws.stats.outputs(ws.stats.mean())}
    )
    close(found["mean"], {"kernel": np.einsum("bd,edf->ef", x, p["kernel"]) / 5})


def two_layers(p: Any, x: Any) -> Any:
    x = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, p["layers"])[0]
    return x @ p["head"]


def test_pairs_of_models() -> None:
    shapes = {"layers": (2, 4, 4), "head": (4, 3)}
    a, b, x = filled(shapes), filled(shapes, 5), normal(1, 6, 4)
    folds = {"cross": ws.stats.cross(), "outputs": ws.stats.outputs(ws.stats.cross())}
    found = ws.calibrate(two_layers, a, [x[:2], x[2:]], folds, other=b)
    ins: dict[str, list[np.ndarray]] = {"a": [], "b": []}
    for name, p in (("a", a), ("b", b)):
        h = np.asarray(x, np.float64)
        for w in (*p["layers"], p["head"]):
            ins[name].append(h)
            h = np.tanh(h @ np.asarray(w, np.float64)) if w.shape == (4, 4) else h @ np.asarray(w, np.float64)
        ins[name].append(h)
    first, second, third = (u.T @ v / 6 for u, v in zip(ins["a"][:3], ins["b"][:3], strict=True))
    close(found["cross"], {"layers": np.stack([first, second]), "head": third})
    close({"head": found["outputs"]["head"]}, {"head": ins["a"][3].T @ ins["b"][3] / 6})


def test_implicit_leaves_stand_for_their_arrays() -> None:
    params = {"kernel": normal(2, 5, 3)}
    found = ws.calibrate(lambda p, x: x @ p["kernel"], ws.reparam.weight_norm()(params), [x := normal(1, 7, 5)], "gram")
    close(found["gram"], {"kernel": gram(x)})


def test_misuse_is_named() -> None:
    p, x = {"kernel": jnp.ones((4, 2))}, normal(1, 5, 4)
    model: Any = lambda p, x: x @ p["kernel"]  # noqa: E731

    def expect(error: type[WspaceError], match: str, *args: Any, **given: Any) -> None:
        with pytest.raises(error, match=match):
            ws.calibrate(*args, **given)

    expect(SelectionError, "there was no batch", model, p, [], "gram")
    expect(SelectionError, "no fold is called grams. Did you mean 'gram'", model, p, [x], "grams")
    expect(SelectionError, "no folds; name some of abs_max", model, p, [x], {})
    expect(
        SelectionError,
        "no parameter meets an activation: .*kernel.* in mul",
        lambda p, x: x * p["kernel"].T[:1],
        p,
        [x],
        "gram",
    )
    expect(ShapeError, r"weights have shape \(3,\), but no input", model, p, [x], "gram", weights=lambda x: jnp.ones(3))
    expect(TreeMismatch, "other leaves", model, p, [x], {"cross": ws.stats.cross()}, other={"w": p["kernel"]})
    expect(TreeMismatch, r"kernel is float32\[4, 2\]", model, p, [x], {"c": ws.stats.cross()}, other={"kernel": x})
    sampled = {"fisher": ws.stats.fisher(lambda y, drawn: y.sum(), sample=jax.random.categorical)}
    expect(SideTreeError, "pass a key", model, p, [x], sampled)
