"""Deleted, models that do not match could be merged with made-up numbers, or lose a leaf without a word."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import wspace as ws
from wspace.core.errors import SideTreeError, TreeMismatch, WspaceError

RNG = np.random.default_rng(0)


def model(rows: int, **more: Any) -> dict[str, Any]:
    made = {
        "embed": RNG.standard_normal((rows, 3)),
        "out": {"head": RNG.standard_normal((3, rows))},
        "w": RNG.random(4),
    }
    return {**{k: _f32(v) for k, v in made.items()}, **more}


def _f32(x: Any) -> Any:
    return {k: _f32(v) for k, v in x.items()} if isinstance(x, dict) else jnp.asarray(x, jnp.float32)


BASE, A, B = model(5), model(7, extra=jnp.ones(2)), model(6)
MEAN = ws.average.uniform_soup()


def test_refuse_changes_nothing() -> None:
    r = ws.reconcile(A, B, base=BASE)
    assert r.trees == (A, B) and r.base is BASE and r.treated == () and r.merge(MEAN) is MEAN
    with pytest.raises(TreeMismatch, match="lacks extra"):
        MEAN(*r.trees)


def test_intersect_cuts_and_drops() -> None:
    r = ws.reconcile(A, B, base=BASE, policy="intersect")
    assert [(t.path, t.how) for t in r.treated] == [
        ("embed", "cut to (5, 3)"), ("out/head", "cut to (3, 5)"), ("extra", "dropped")
    ]  # fmt: skip
    assert r.treated[0].shapes == ((7, 3), (6, 3), (5, 3)) and r.treated[2].shapes == ((2,), None, None)
    merged = r.merge(ws.merge.task_arithmetic((0.5, 0.5)))(*r.trees, base=r.base)
    np.testing.assert_allclose(merged["embed"], (A["embed"][:5] + B["embed"][:5]) / 2, atol=1e-6)
    np.testing.assert_allclose(
        merged["out"]["head"], (A["out"]["head"][:, :5] + B["out"]["head"][:, :5]) / 2, atol=1e-6
    )
    np.testing.assert_allclose(merged["w"], (A["w"] + B["w"]) / 2, atol=1e-6)
    assert "extra" not in merged


def test_base_takes_what_does_not_match_whole_from_the_base() -> None:
    """Also under a sum that is no mean: such a leaf is not merged at all."""
    r = ws.reconcile(A, B, base=BASE, policy="base")
    assert r.kept == {"embed", "out/head"} and [t.how for t in r.treated] == ["taken from the base"] * 2 + ["dropped"]
    merged = r.merge(ws.merge.weighted_sum((3.0, 4.0)))(*r.trees)
    np.testing.assert_array_equal(merged["embed"], BASE["embed"])
    np.testing.assert_allclose(merged["w"], 3 * A["w"] + 4 * B["w"], rtol=1e-6)


def test_pad_takes_each_row_from_the_first_that_has_it() -> None:
    """Rows 0-4 everyone's own; row 5 lacks in the base: the first tree's; row 6 is in A alone, and so is `extra`."""
    r = ws.reconcile(B, A, base=BASE, policy="pad")
    b, a = r.trees
    assert a["embed"].shape == b["embed"].shape == r.base["embed"].shape == (7, 3)
    np.testing.assert_array_equal(a["embed"], A["embed"])
    np.testing.assert_array_equal(b["embed"], np.concatenate([B["embed"], A["embed"][6:]]))
    np.testing.assert_array_equal(r.base["embed"], np.concatenate([BASE["embed"], B["embed"][5:], A["embed"][6:]]))
    merged = r.merge(ws.merge.task_arithmetic((0.5, 0.5)))(*r.trees, base=r.base)
    np.testing.assert_allclose(merged["embed"][6], A["embed"][6], atol=1e-6)  # one model's row stays as it is
    np.testing.assert_array_equal(merged["extra"], A["extra"])
    assert r.kept == {"extra"} and [t.how for t in r.treated][-1] == "taken from tree 2"
    short = ws.reconcile(model(2), B, policy="pad").trees[0]
    np.testing.assert_array_equal(short["embed"][2:], B["embed"][2:])


class Lazy(Mapping[str, Any]):
    """A checkpoint that tells shapes and counts reads."""

    def __init__(self, leaves: dict[str, Any]) -> None:
        self.leaves, self.reads = leaves, [""][:0]
        self.specs = {n: (x.shape, x.dtype) for n, x in leaves.items()}

    def __getitem__(self, name: str) -> Any:
        self.reads.append(name)
        return self.leaves[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.leaves)

    def __len__(self) -> int:
        return len(self.leaves)


def test_lazy_checkpoints_stay_lazy_and_stream() -> None:
    flat = [{"embed": np.asarray(t["embed"]), "w": np.asarray(t["w"])} for t in (A, B)]
    flat[0]["ids"] = np.arange(3)
    sources = [Lazy(f) for f in flat]
    r = ws.reconcile(*sources, policy="pad")
    plan = ws.plan(r.merge(MEAN), *r.trees)
    assert [s.reads for s in sources] == [[], []] and {row.path: row.shape for row in plan.rows}["embed"] == (7, 3)
    sink: dict[str, Any] = {}
    ws.stream(r.merge(MEAN), r.trees, sink)
    want = (flat[0]["embed"] + np.concatenate([flat[1]["embed"], flat[0]["embed"][6:]])) / 2
    np.testing.assert_allclose(sink["embed"], want, atol=1e-6)
    np.testing.assert_array_equal(sink["ids"], np.arange(3))
    assert sources[1].reads.count("embed") == 1


def test_a_quantized_leaf_is_cut_as_the_array_that_it_stands_for() -> None:
    q = ws.on("embed", ws.quant.rtn(8))({"embed": A["embed"]})
    r = ws.reconcile(q, {"embed": B["embed"]}, policy="intersect")
    np.testing.assert_array_equal(r.trees[0]["embed"], q["embed"].materialize()[:6])


def test_what_cannot_be_matched() -> None:
    square, turned = {"w": jnp.ones((3, 4))}, {"w": jnp.ones((4, 3))}
    for policy in ("intersect", "pad"):
        with pytest.raises(TreeMismatch, match=r"w has shapes \(3, 4\), \(4, 3\), which differ in more"):
            ws.reconcile(square, turned, policy=policy)
    assert ws.reconcile(square, turned, base=square, policy="base").trees[1]["w"].shape == (3, 4)
    with pytest.raises(TreeMismatch, match="differ in more"):
        ws.reconcile(square, {"w": jnp.ones(4)}, policy="pad")
    with pytest.raises(TreeMismatch, match="tree 1 would lose or get leaves, which only dicts can"):
        ws.reconcile([jnp.ones(2), jnp.ones(3)], [jnp.ones(2)], policy="intersect")
    with pytest.raises(SideTreeError, match="give it one, as base="):
        ws.reconcile(A, B, policy="base")
    with pytest.raises(WspaceError, match=r"no policy 'pads'. Did you mean 'pad'"):
        ws.reconcile(A, B, policy="pads")  # type: ignore[arg-type]
    with pytest.raises(TreeMismatch, match="not in every tree and has other shapes"):
        ws.reconcile({"x": jnp.ones(2)}, {"x": jnp.ones(3)}, {}, policy="pad")
