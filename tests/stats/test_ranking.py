"""Deleted, the folds that rank a whole tree could miss their exact count: in huge trees, over dtypes, among ties."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import wspace as ws
from tests import refs
from wspace.stats.histogram import BINS
from wspace.stats.ranking import Cut, ranking
from wspace.stats.wide import Wide, wide


def prune(sparsity: Any) -> ws.Transform:
    return ws.prune.magnitude(sparsity, scope="global")


def zeros(tree: Any) -> int:
    return sum(int(np.sum(np.asarray(x) == 0)) for x in jax.tree.leaves(tree))


def test_all_dtypes_are_ranked_as_one_vector() -> None:
    rng = np.random.default_rng(0)
    tree = {
        "a": jnp.asarray(rng.standard_normal((7, 9)), jnp.bfloat16),
        "b": rng.standard_normal((5, 4)) * 1e-20,  # float64
        "c": rng.standard_normal((6, 6)).astype(np.float32),
        "d": jnp.asarray(rng.standard_normal(50), jnp.float8_e4m3fn),
        "e": rng.standard_normal((0, 3)).astype(np.float32),
    }
    flat = np.concatenate([np.asarray(tree[k]).astype(np.float64).ravel() for k in "abcde"])
    for sparsity in (0.0, 0.1, 0.5, 0.93, 1.0):
        got = prune(sparsity)(tree)
        kept = np.concatenate([np.asarray(got[k]).astype(np.float64).ravel() for k in "abcde"])
        np.testing.assert_array_equal(kept, refs.keep_largest(flat, flat.size - round(sparsity * flat.size)))
        assert {k: got[k].dtype for k in "abcde"} == {k: tree[k].dtype for k in "abcde"}


@pytest.mark.parametrize("sparsity", [0.1, 0.25, 0.5, 0.8])
def test_ties_stay_in_the_order_of_paths_then_rows(sparsity: float) -> None:
    tree = {"z": jnp.ones((3, 5)), "a": jnp.ones(4), "m": 2 * jnp.ones((2, 2)), "b": jnp.full((6,), -1.0)}
    got = prune(sparsity)(tree)
    flat = np.concatenate([np.asarray(tree[k]).ravel() for k in "abmz"])
    kept = np.concatenate([np.asarray(got[k]).ravel() for k in "abmz"])
    np.testing.assert_array_equal(kept, refs.keep_largest(flat, flat.size - round(sparsity * flat.size)))


def test_a_nan_stays_and_infinities_rank_below_it() -> None:
    got = prune(0.5)({"a": jnp.array([jnp.nan, 1.0]), "b": jnp.array([jnp.inf, 2.0])})
    assert np.isnan(got["a"][0]) and np.isinf(got["b"][0]) and zeros(got) == 2


def test_trees_beyond_32_bits() -> None:
    """17 billion scores, by their histograms alone: half have the leading bits 5, half 9, and a quarter of all goes."""
    high, low, ties = ranking(lambda leaves, ctx: leaves[0], 0.25)
    assert value(high, {5: 2**32, 9: 2**32}) == (5 << 16, 2**32)  # 3/4 of 2^34 less the 2^33 of bin 9
    cut = Cut(jnp.uint32(5 << 16), wide(2**32))
    assert value(low, {7: 2**32 - 3, 8: 3}, cut) == (5 << 16 | 7, 2**32 - 6)
    last = Cut(jnp.uint32(3), wide(2**32 + 10))
    tied = ties.merge((last, {"b": jnp.uint32(2**32 - 2)}), (last, {"a": jnp.uint32(2**32 - 4), "c": jnp.uint32(5)}))
    shares = {path: int(found.room) for path, found in ties.finish(tied).items()}
    assert shares == {"a": 2**32 - 4, "b": 14, "c": 0}


def value(fold: ws.Fold, bins: dict[int, int], cut: Cut | None = None) -> tuple[int, int]:
    """Code and room of the cut that a fold finds in two leaves with these counts each."""
    counts = np.zeros(BINS, np.uint64)
    counts[list(bins)] = list(bins.values())
    s = Wide(jnp.asarray(counts >> np.uint64(32), jnp.uint32), jnp.asarray(counts & np.uint64(2**32 - 1), jnp.uint32))
    leaf = (2**33 if cut is None else cut, s)
    found = fold.finish(fold.merge(leaf, leaf))
    return int(found.code), (int(found.room.high) << 32) + int(found.room.low)


@pytest.mark.parametrize("last", [P("model", None), P(None, "model")], ids=["in", "out"])
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def test_no_leaf_is_gathered(kind: AxisType, last: P) -> None:
    mesh = jax.make_mesh((8,), ("model",), axis_types=(kind,))
    rng = np.random.default_rng(1)
    tree = {name: rng.integers(-4, 5, (16, 8)).astype(np.float32) for name in "ab"}  # ties: the dear path too
    placed = jax.tree.map(lambda x: jax.device_put(x, NamedSharding(mesh, last)), tree)
    with jax.set_mesh(mesh):
        compiled = jax.jit(lambda tree: prune(0.4)(tree)).lower(placed).compile()
        out = compiled(placed)
    assert "all-gather" not in compiled.as_text()
    for name, want in prune(0.4)(tree).items():
        np.testing.assert_array_equal(out[name], want)
        assert out[name].sharding.is_equivalent_to(placed[name].sharding, 2)


def test_a_sweep_over_sparsity_is_one_program() -> None:
    w = {"a": jnp.arange(1.0, 9.0), "b": -jnp.arange(9.0, 17.0)}
    swept = jax.vmap(lambda s: prune(s)(w))(jnp.array([0.0, 0.25, 0.5, 1.0]))
    assert [zeros(jax.tree.map(lambda x, i=i: x[i], swept)) for i in range(4)] == [0, 4, 8, 16]


def test_it_composes() -> None:
    """Selected leaves are ranked among themselves; in a chain, what the step before made is ranked."""
    rng = np.random.default_rng(2)
    tree = {name: jnp.asarray(rng.standard_normal((6, 4)), jnp.float32) for name in ("a", "b", "c")}
    picked = ws.on("[ab]", prune(0.5))(tree)
    assert zeros(picked) == 24 and zeros(picked["c"]) == 0
    louder = ws.leafwise("louder", lambda leaves, ctx: leaves[0] * (1e6 if ctx.spec.path == "c" else 1))
    assert zeros(ws.chain(louder, prune(2 / 3))(tree)["c"]) == 0
    assert prune(0.5).passes == 4 and prune(0.5).scope == "global"
