"""If this were deleted, whole models could be zipped by wrong correlations, or a trunk made of what stays apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wspace as ws
from tests.match.nets import pair
from tests.trace.zoo import ZOO
from wspace.core.errors import SelectionError, WspaceError
from wspace.data import digits
from wspace.match import zip_models

Net = Mapping[str, Any]
SIZES = {"w1": (4, 6), "b1": (6,), "w2": (6, 5), "b2": (5,), "w3": (5, 3)}
RULES = {"w1": (None, "h"), "b1": ("h",), "w2": ("h", "k"), "b2": ("k",), "w3": ("k", None)}
X = jnp.asarray(np.random.default_rng(0).standard_normal((60, 4)), jnp.float32)


def apply(p: Net, x: Any) -> Any:
    return jnp.tanh(jnp.tanh(x @ p["w1"] + p["b1"][None]) @ p["w2"] + p["b2"][None]) @ p["w3"]


def net(seed: int) -> Net:
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.standard_normal(shape), jnp.float32) for name, shape in SIZES.items()}


def slow_clusters(features: list[np.ndarray], keep: int, alpha: float, beta: float) -> list[list[int]]:
    """The paper's greedy merging in float64, every pair of clusters looked up by name."""
    n, size = features[0].shape[1], sum(f.shape[1] for f in features)
    corr = np.corrcoef(np.concatenate(features, 1).T)
    alike = {frozenset([(i,), (j,)]): corr[i, j] for i in range(size) for j in range(i)}
    clusters: set[tuple[int, ...]] = {(i,) for i in range(size)}
    left = [int(beta * ((size - keep) // len(features)) + 1e-4) if beta < 1 else size for _ in features]

    def close(model: int) -> None:
        for both in alike:
            if left[model] <= 0 and all(k // n == model for c in both for k in c):
                alike[both] = -np.inf

    for model in range(len(features)):
        close(model)
    while len(clusters) > keep:
        c, d = max((p for p in alike if p <= clusters), key=alike.__getitem__)
        new = tuple(sorted(c + d))
        clusters = clusters - {c, d}
        for e in clusters:
            alike[frozenset([new, e])] = alpha * min(alike[frozenset([c, e])], alike[frozenset([d, e])])
        clusters |= {new}
        if len(models := {k // n for k in new}) == 1:
            left[min(models)] -= 1
            close(min(models))
    return sorted(map(list, clusters))


def slow_zip(nets: list[Net], keep: Mapping[str, int], alpha: float, beta: float) -> list[dict[str, np.ndarray]]:
    wide = [{k: np.float64(v) for k, v in p.items()} for p in nets]
    first = [np.tanh(np.float64(X) @ p["w1"] + p["b1"]) for p in wide]
    second = [np.tanh(f @ p["w2"] + p["b2"]) for f, p in zip(first, wide, strict=True)]
    h, k = (slow_clusters(f, keep[n], alpha, beta) for n, f in (("h", first), ("k", second)))
    n, m = 6, 5
    out = {
        "w1": np.zeros((4, len(h))),
        "b1": np.zeros(len(h)),
        "w2": np.zeros((len(h), len(k))),
        "b2": np.zeros(len(k)),
    }
    for i, mine in enumerate(h):
        for f in mine:
            out["w1"][:, i] += wide[f // n]["w1"][:, f % n] / len(mine)
            out["b1"][i] += wide[f // n]["b1"][f % n] / len(mine)
    for j, mine in enumerate(k):
        for f in mine:
            out["b2"][j] += wide[f // m]["b2"][f % m] / len(mine)
            for i, parts in enumerate(h):
                out["w2"][i, j] += sum(wide[e // n]["w2"][e % n, f % m] for e in parts if e // n == f // m) / len(mine)
    heads = [np.zeros((len(k), 3)) for _ in nets]
    for j, mine in enumerate(k):
        for f in mine:
            heads[f // m][j] += wide[f // m]["w3"][f % m]
    return [{**out, "w3": head} for head in heads]


@pytest.mark.parametrize(("keep", "beta"), [({}, 0.125), ({"h": 4, "k": 6}, 1.0), ({"h": 8, "k": 7}, 0.5)])
def test_unrelated_nets_as_by_hand(keep: dict[str, int], beta: float) -> None:
    nets = [net(1), net(2)]
    zipped = zip_models(apply, nets, [X[:25], X[25:]], RULES, keep=keep, beta=beta)
    for got, want in zip(zipped.models, slow_zip(nets, {"h": 6, "k": 5, **keep}, 0.3, beta), strict=True):
        assert {k: x.shape for k, x in got.items()} == {k: x.shape for k, x in want.items()}
        for name, x in want.items():
            np.testing.assert_allclose(got[name], x, atol=1e-5, err_msg=name)


def test_three_nets_as_by_hand() -> None:
    nets = [net(1), net(2), net(3)]
    zipped = zip_models(apply, nets, [X], RULES, alpha=1.0, beta=1.0)
    for got, want in zip(zipped.models, slow_zip(nets, {"h": 6, "k": 5}, 1.0, 1.0), strict=True):
        for name, x in want.items():
            np.testing.assert_allclose(got[name], x, atol=1e-5, err_msg=name)


def test_with_nothing_merged_every_model_is_what_it_was() -> None:
    """All features side by side: one program, two models, whatever the data were."""
    nets = [net(1), net(2)]
    zipped = zip_models(apply, nets, [X], RULES, keep={"h": 12, "k": 10})
    assert zipped.models[0]["w2"].shape == (12, 10) and (zipped.models[0]["w2"] == zipped.models[1]["w2"]).all()
    for old, new in zip(nets, zipped.models, strict=True):
        np.testing.assert_allclose(apply(new, 3 * X), apply(old, 3 * X), atol=2e-5)


@pytest.mark.parametrize("name", ["mlp", "lenet"])
def test_a_model_and_its_permuted_copy(name: str) -> None:
    """One trunk for both, and either's outputs as they were, on data that were not seen; the plain mean is far off."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        model, params, (x,) = ZOO[name].make()
        axes = ws.trace.axes(model, params, x)
        g = ws.match.random_element(axes, key=jax.random.key(1))
        other = ws.match.act(params, axes, g)
        seen, new = (jax.random.normal(jax.random.key(k), (64, *x.shape[1:])) for k in (2, 3))
        zipped = zip_models(model, [params, other], [seen], axes)
        wanted = np.asarray(model(params, new))
        spread = np.abs(wanted).max()
        for tree in (*zipped.models, ws.average.uniform_soup()(*zipped.models)):
            np.testing.assert_allclose(model(tree, new), wanted, atol=1e-5 * spread)
        assert np.abs(model(ws.match.midpoint(params, other), new) - wanted).max() > 0.1 * spread


def test_layers_of_a_scan_have_their_own_pairs() -> None:
    def stacked(p: Net, x: Any) -> Any:
        def turn(x: Any, layer: Any) -> Any:
            return x + jnp.tanh(x @ layer["up"]) @ layer["down"], None

        return jax.lax.scan(turn, x @ p["in"], p["layers"])[0] @ p["out"]

    rng = np.random.default_rng(4)
    shapes = {"in": (4, 5), "layers": {"up": (3, 5, 6), "down": (3, 6, 5)}, "out": (5, 2)}
    draw = lambda s: jnp.asarray(0.5 * rng.standard_normal(s), jnp.float32)  # noqa: E731
    params = jax.tree.map(draw, shapes, is_leaf=lambda s: isinstance(s, tuple))
    axes = ws.trace.axes(stacked, params, X)
    assert sorted(g.shape for g in axes.groups.values()) == [(3, 6), (5,)]
    other = ws.match.act(params, axes, ws.match.random_element(axes, key=jax.random.key(0)))
    zipped = zip_models(stacked, [params, other], [X], axes)
    assert sorted(z.merge.shape for z in zipped.zips.values()) == [(2, 5, 5), (3, 2, 6, 6)]
    for tree in zipped.models:
        np.testing.assert_allclose(stacked(tree, 2 * X), stacked(params, 2 * X), atol=1e-4)


def test_a_zip_of_digits_nets_keeps_more_than_their_mean_and_a_partial_zip_more_still() -> None:
    """Mean squared distance to the outputs of both originals on test images, added."""
    model, nets, axes = pair(64)
    images, test = (digits.load(part)[0] for part in ("train", "test"))
    first = next(name for name in axes.groups if "hidden0" in name)
    trained = [model.apply(p, test) for p in nets]

    def away(trees: Any) -> float:
        found = (jnp.mean(jnp.square(model.apply(t, test) - y)) for t, y in zip(trees, trained, strict=True))
        return float(sum(found))

    whole = zip_models(model.apply, nets, [images], axes)
    part = zip_models(model.apply, nets, [images], axes, where=first)
    assert part.zips.keys() == {first}
    kernels = [tree["params"]["hidden1"]["kernel"] for tree in part.models]
    assert kernels[0].shape == (64, 64) and bool((kernels[0] != kernels[1]).any())
    mean = [ws.match.midpoint(*nets)] * 2
    assert away(part.models) < 0.75 * away(whole.models) < 0.5 * away(mean)


def test_says_what_is_wrong() -> None:
    nets = [net(1), net(2)]
    with pytest.raises(WspaceError, match="two models"):
        zip_models(apply, nets[:1], [X], RULES)
    with pytest.raises(SelectionError, match="matches none of the groups"):
        zip_models(apply, nets, [X], RULES, where="nothing")
    with pytest.raises(SelectionError, match="keep names z"):
        zip_models(apply, nets, [X], RULES, keep={"z": 3})
    with pytest.raises(WspaceError, match="depend on leaves that stay apart, of w1, b1, w3"):
        zip_models(apply, nets, [X], RULES, where="k")
    scaled = [{**p, "scale": jnp.float32(s)} for p, s in zip(nets, (1.0, 2.0), strict=True)]
    with pytest.raises(WspaceError, match=r"apart, of .*scale"):
        zip_models(lambda p, x: apply(p, p["scale"] * x), scaled, [X], RULES)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        mixture, params, (x,) = ZOO["experts"].make()
        axes = ws.trace.axes(mixture, params, x)
    with pytest.raises(SelectionError, match="lie within one another"):
        zip_models(mixture, [params, params], [x], axes)

    def tied(p: Net, ids: Any) -> Any:
        return jnp.tanh(p["table"][ids] @ p["w"]) @ p["table"].T

    table = {"table": jnp.ones((5, 3)), "w": jnp.ones((3, 3))}
    with pytest.raises(SelectionError, match="table is used along two axes"):
        zip_models(tied, [table, table], [jnp.arange(5)], {"table": (None, "d"), "w": ("d", "d")})
