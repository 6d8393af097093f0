"""Deleted, streaming could read a lazy checkpoint too often, lose its names, or report progress that is not true."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

import wspace as ws
from tests.core.parts import add, mean, unit


class Lazy(Mapping[str, Any]):
    """A checkpoint that counts its reads and knows shapes without one."""

    def __init__(self, **leaves: Any) -> None:
        self.leaves = leaves
        self.specs = {name: (x.shape, x.dtype) for name, x in leaves.items()}
        self.reads: Counter[str] = Counter()

    def __getitem__(self, name: str) -> Any:
        self.reads[name] += 1
        return self.leaves[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.leaves)

    def __len__(self) -> int:
        return len(self.leaves)


def lazy(x: float) -> Lazy:
    return Lazy(w=np.full(2, x, np.float32), v=np.full(3, -x, np.float32), n=np.int64(2**40))


def test_reads_each_weight_once_a_pass_and_others_once() -> None:
    one, two, base = lazy(1.0), lazy(4.0), lazy(2.0)
    sink: dict[str, Any] = {}
    told: list[tuple[int, int, str]] = []
    t = ws.chain(ws.around_base(ws.chain(unit(), mean())), unit())
    ws.stream(t, [one, two], sink, base=base, progress=lambda *row: told.append(row))
    assert t.passes == 3
    for source in (one, two, base):
        assert source.reads == {"w": 3, "v": 3, "n": 1}
    assert [(done, total) for done, total, _ in told] == [(i + 1, 6) for i in range(6)]
    assert [path for *_, path in told] == ["v", "w", "v", "w", "w", "v"]  # folds by name, results in the file's order
    assert list(sink) == ["w", "v", "n"] and sink["n"] == 2**40 and sink["n"].dtype == np.int64


class Asked(dict[str, Any]):
    """Shapes and dtypes, and how often they were asked for."""

    times = 0

    def __getitem__(self, name: str) -> Any:
        self.times += 1
        return super().__getitem__(name)


def test_shapes_of_a_leaf_are_asked_for_as_often_in_a_large_checkpoint_as_in_a_small_one() -> None:
    def times(leaves: int) -> float:
        source = Lazy(**{f"w{k}": np.ones(2, np.float32) for k in range(leaves)})
        source.specs = Asked(source.specs)
        ws.stream(mean(), [source, source], {})
        return source.specs.times / leaves

    assert times(8) == times(64)


def test_a_checkpoint_and_a_flat_dict_mix() -> None:
    sink: dict[str, Any] = {}
    ws.stream(mean(), [lazy(1.0), {"w": jnp.full(2, 3.0), "v": jnp.zeros(3), "n": np.int64(2**40)}], sink)
    assert sink["w"].tolist() == [2, 2] and sink["v"].tolist() == [-0.5] * 3


def test_key_tuples_are_names_too() -> None:
    sink: dict[Any, Any] = {}
    ws.stream(ws.on("^a/b$", add(1.0)), [{("a", "b"): jnp.ones(1), ("c",): jnp.ones(1)}], sink)
    assert sink[("a", "b")] == 2 and sink[("c",)] == 1


class Half(dict[str, Any]):
    """A sink that a killed run left with something in it."""

    def __init__(self, *done: str) -> None:
        super().__init__()
        self.done = frozenset(done)


def test_what_a_sink_has_already_is_neither_read_nor_written() -> None:
    source, told = lazy(1.0), list[tuple[int, int, str]]()
    sink = Half("w", "n")
    ws.stream(unit(), [source], sink, progress=lambda *row: told.append(row))
    assert sink.keys() == {"v"} and source.reads == {"w": 1, "v": 2}  # a pass for the norm needs them all
    assert told[-1][:2] == (4, 4)
    source = lazy(1.0)
    ws.stream(unit(), [source], Half("w", "v"))
    assert source.reads == {"n": 1}
