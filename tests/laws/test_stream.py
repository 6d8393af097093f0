"""Deleted, streaming from file to file could differ from memory, or read leaves more often than it says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wspace as ws
from tests.rows import ROWS, Row
from wspace.core import blocks
from wspace.core.containers import as_params, is_weight, show


class Counting(Mapping[str, Any]):
    """A checkpoint in memory that counts its reads and knows shapes without one."""

    def __init__(self, tree: Any) -> None:
        self.leaves = {show(p): x for p, x in as_params(tree).leaves.items() if x is not None}
        self.specs = {name: (x.shape, x.dtype) for name, x in self.leaves.items()}
        self.reads: Counter[str] = Counter()

    def __getitem__(self, name: str) -> Any:
        self.reads[name] += 1
        return self.leaves[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.leaves)

    def __len__(self) -> int:
        return len(self.leaves)


def flat(side: Any, paths: list[Any]) -> Any:
    """A side tree by shown path."""
    if isinstance(side, tuple):
        return tuple(flat(s, paths) for s in side)
    entries = as_params(side, stop=paths).leaves
    return {show(p): x for p, x in entries.items() if x is not None}


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_stream_equals_memory_bitwise_and_reads_each_leaf_passes_times(row: Row) -> None:
    trees, given = row.example()
    sources = [Counting(t) for t in trees]
    paths = list(as_params(trees[0]).leaves)

    sides = {name: side if name == "key" else flat(side, paths) for name, side in given.items()}
    sink: dict[str, Any] = {}
    t = row.transform()
    ticks: list[tuple[int, int]] = []
    ws.stream(t, sources, sink, progress=lambda done, total, path: ticks.append((done, total)), **sides)
    memory = {show(p): x for p, x in as_params(row.result).leaves.items() if x is not None}
    assert sink.keys() == memory.keys()
    for name, leaf in memory.items():
        for a, b in zip(jax.tree.leaves(sink[name]), jax.tree.leaves(leaf), strict=True):
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=name)
    for source in sources:
        assert all(source.reads[name] == t.passes for name, x in memory.items() if is_weight(x)), source.reads
    assert ticks[-1][0] == ticks[-1][1] == len(ticks)


# Programs that multiply and add. The newest jax rounds them otherwise for a few entries than for many, blocks or not.
FUSED = ("merge.fisher", "merge.delta_weighted(entry)")


@pytest.mark.parametrize("row", [row for row in ROWS if not row.transform().folds and str(row) not in FUSED], ids=str)
def test_leaves_on_the_host_in_blocks_equal_memory_bitwise(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes from files goes block by block where the program allows it; a block here is 5 entries."""
    trees, given = row.example()
    in_blocks_equal(row.transform(), trees, given, 5, monkeypatch)


@pytest.mark.parametrize("name", FUSED)
def test_products_and_sums_in_blocks_equal_memory_bitwise(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row = next(row for row in ROWS if str(row) == name)
    trees, given = jax.tree.map(lambda x: jnp.tile(x, 512), row.example())  # along the last axis
    in_blocks_equal(row.transform(), trees, given, 1024, monkeypatch)


def in_blocks_equal(t: ws.Transform, trees: Any, given: Any, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", block)
    result = t(*trees, **given)
    paths = list(as_params(trees[0]).leaves)
    sides = {name: side if name == "key" else flat(side, paths) for name, side in given.items()}
    sides = {name: side if name == "key" else jax.tree.map(on_host, side) for name, side in sides.items()}
    sink: dict[str, Any] = {}
    ws.stream(t, [Counting(jax.tree.map(on_host, tree)) for tree in trees], sink, **sides)
    for path, leaf in as_params(result).leaves.items():
        for a, b in zip(jax.tree.leaves(sink.get(show(path))), jax.tree.leaves(leaf), strict=True):
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=show(path))


def on_host(x: Any) -> Any:
    return x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else np.asarray(x)
