"""The table of methods: one row a public factory. The laws in tests/laws run over all rows.

Rows live beside their room's own tests, in `tests/<room>/rows.py`, each a list `ROWS`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import wspace as ws
from wspace.core.containers import as_params, is_weight, show
from wspace.core.transform import leaf_key

Leaves = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Row:
    """One method.

    name: "room.factory". make: the factory. settings: its arguments.
    truth: `(leaves, sides, key, **settings) -> array`, the slow numpy result of one leaf in float64; leaves has one
      array a tree, sides the leaf's entries, key the leaf's random key. With whole=True it is called once for all,
      `(trees, sides, key, **settings) -> {path: array}`, trees a list of {path: array}.
    numeric: other values of the traced arguments. trees: how many trees it takes.
    sides: `(trees, rng) -> {name: side tree}`. matrices: it acts on matrices only. families: laws of kind it obeys.
    equal: arguments with which a merge of equal trees is that tree; None if it is no merge.
    gathers: its maths needs the whole leaf on one device (a QR, an SVD), so the compiled program may gather it.
    tolerance: relative to the largest magnitude of the truth. bf16: the same bound for bfloat16 leaves.
    """

    name: str
    make: Callable[..., ws.Transform]
    truth: Callable[..., Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    numeric: Mapping[str, Any] = field(default_factory=dict)
    trees: int = 1
    sides: Callable[..., dict[str, Any]] = lambda trees, rng: {}
    matrices: bool = False
    random: bool = False
    whole: bool = False
    families: Sequence[str] = ()
    equal: Mapping[str, Any] | None = None
    gathers: bool = False
    tolerance: float = 2e-6
    bf16: float = 2.0**-7

    def __str__(self) -> str:
        return self.name

    def transform(self, **changes: Any) -> ws.Transform:
        return self.make(**{**self.settings, **changes})

    def example(self, seed: int = 0, dtype: Any = jnp.float32) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Trees and the keyword arguments of a call. Every axis of the matrices divides by 8."""
        rng = np.random.default_rng(seed)
        return self.given(tuple(tree(rng, dtype, self.matrices) for _ in range(self.trees)), rng)

    def given(self, trees: tuple[Any, ...], rng: np.random.Generator) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The same for trees of one's own."""
        key = {"key": jax.random.key(int(rng.integers(2**31)))} if self.random else {}
        return trees, {**self.sides(trees, rng), **key}

    @cached_property
    def result(self) -> Any:
        """The method on its example, in memory, eagerly."""
        trees, given = self.example()
        return self.transform()(*trees, **given)


def tree(rng: np.random.Generator, dtype: Any = jnp.float32, matrices: bool = False) -> dict[str, Any]:
    """A small model: a dense layer, two stacked layers, and leaves that pass through."""

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape), jnp.float32).astype(dtype)

    dense = {"kernel": normal(16, 8)} if matrices else {"kernel": normal(16, 8), "bias": normal(8)}
    return {"dense": dense, "layers": {"kernel": normal(2, 16, 8)}, "step": jnp.int32(7), "unused": None}


def like(tree: Any, rng: np.random.Generator) -> Any:
    """Another tree of the same leaves: floating ones standard normal, others the same."""

    def one(x: Any) -> Any:
        floating = jnp.issubdtype(x.dtype, jnp.floating)
        return jnp.asarray(rng.standard_normal(x.shape), jnp.float32).astype(x.dtype) if floating else x

    return jax.tree.map(one, tree)


def weights(tree: Any, dtype: Any = np.float64) -> Leaves:
    """Floating leaves (Implicit ones materialized) by shown path, as numpy float64."""
    leaves = as_params(ws.materialize(tree)).leaves
    return {show(p): np.asarray(x).astype(dtype) for p, x in leaves.items() if is_weight(x)}


def expected(row: Row, trees: Sequence[Any], given: Mapping[str, Any], **changes: Any) -> Leaves:
    """The slow numpy truth of a call, by shown path."""
    settings = {**row.settings, **changes}
    key = given.get("key")
    flat = [weights(t) for t in trees]
    sides = {name: side_entries(side, trees) for name, side in given.items() if name != "key"}
    if row.whole:
        return row.truth(flat, sides, key, **settings)
    return {
        path: row.truth(
            [f[path] for f in flat], {n: s.get(path) for n, s in sides.items()}, leaf_key(key, path), **settings
        )
        for path in flat[0]
    }


def side_entries(side: Any, trees: Sequence[Any]) -> dict[str, Any]:
    """A side tree by shown path; a tuple of side trees becomes tuples of entries."""
    if isinstance(side, tuple):
        each = [side_entries(s, trees) for s in side]
        return {path: tuple(e.get(path) for e in each) for path in each[0]}
    paths = as_params(trees[0]).leaves
    entries = as_params(side, stop=paths).leaves
    return {show(p): jax.tree.map(lambda v: np.asarray(v, np.float64), x) for p, x in entries.items()}


def close(got: Any, want: Leaves, tolerance: float) -> None:
    """Every leaf within `tolerance` of the largest magnitude of its truth."""
    found = weights(got)
    assert found.keys() == want.keys()
    for path, truth in want.items():
        assert found[path].shape == np.shape(truth), path
        bound = tolerance * max(1e-30, float(np.max(np.abs(truth), initial=0)))
        np.testing.assert_allclose(found[path], truth, rtol=0, atol=bound, err_msg=path)


def collect() -> list[Row]:
    rooms = sorted(p.parent.name for p in Path(__file__).parent.glob("*/rows.py"))
    return [row for room in rooms for row in importlib.import_module(f"tests.{room}.rows").ROWS]


def __getattr__(name: str) -> Any:
    if name == "ROWS":
        return collect()
    raise AttributeError(name)
