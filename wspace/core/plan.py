"""Plan: what a transform would do to every leaf, and what it costs, before anything is read or computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from wspace.core.axes import Axes
from wspace.core.containers import as_params, show
from wspace.core.implicit import stored_bits
from wspace.core.memory import Held
from wspace.core.run import Ready, portions, prepare
from wspace.core.sizes import size
from wspace.core.table import html, text
from wspace.core.transform import Transform
from wspace.core.typing import Array, Path, Tree


class Row(NamedTuple):
    """One leaf: what is applied to it and what comes out. Sizes in bytes."""

    path: str
    steps: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    made: str  # dtype of an array, or the name of the Implicit node
    bytes_in: int  # of all trees and side trees together
    bytes_out: int
    holds: int = 0  # anonymous memory while it is computed; of a leaf that goes through in parts, of one of them
    writes: int = 0  # the same while it is written
    share: float = 1.0  # of the leaf that is written together
    rounds: int = 0  # how often a leaf in parts is read beside the passes; a rank whose sample misleads takes one more


class Plan(NamedTuple):
    """A table of leaves and the totals.

    peak: bytes of anonymous memory that streaming takes at most at once: one leaf's result and what lies between, while
      the result before it is written. Leaves that are mapped from files take none.
    """

    name: str
    passes: int
    scope: str
    rows: tuple[Row, ...]

    @property
    def bytes_read(self) -> int:
        return sum(r.bytes_in * (self.passes + r.rounds if r.steps else 1) for r in self.rows)

    @property
    def bytes_written(self) -> int:
        return sum(r.bytes_out for r in self.rows)

    @property
    def peak(self) -> int:
        last = (0, *(r.writes for r in self.rows))
        return max((r.holds + written for r, written in zip(self.rows, last, strict=False)), default=0)

    def summary(self) -> str:
        return (
            f"{self.name}: {len(self.rows)} leaves, scope {self.scope}, {self.passes} pass{'es' * (self.passes > 1)}, "
            f"reads {size(self.bytes_read)}, writes {size(self.bytes_written)}, holds {size(self.peak)} at once"
        )

    def cells(self) -> list[tuple[str, ...]]:
        return [
            (
                r.path,
                " > ".join(r.steps) or "pass",
                str(r.shape),
                f"{r.dtype} -> {r.made}",
                size(r.bytes_in),
                size(r.bytes_out),
            )
            for r in self.rows
        ]

    def __str__(self) -> str:
        return text(self.summary(), HEAD, self.cells())

    def _repr_html_(self) -> str:
        return html(self.summary(), HEAD, self.cells())


HEAD = ("path", "steps", "shape", "dtype", "in", "out")


def plan(t: Transform, *trees: Tree, key: Array | None = None, axes: Axes | None = None, **sides: Tree) -> Plan:
    """What `t(*trees, **sides)` would do, from shapes alone: trees may hold ShapeDtypeStructs or be lazy checkpoints.

    Example:
      >>> import jax, wspace as ws
      >>> w = {"kernel": jax.ShapeDtypeStruct((1024, 1024), "float32")}
      >>> print(plan(ws.prune.magnitude(0.5), w).summary())
      magnitude: 1 leaves, scope leaf, 1 pass, reads 4.0 MiB, writes 4.0 MiB, holds 10.0 MiB at once

    Raises:
      everything that running it would raise before its first read.
    """
    sources: list[Mapping[Any, Any]] = [x if is_lazy(x) else as_params(x).leaves for x in trees]
    key = jax.random.key(0) if key is None and "key" in t.needs else key
    return tabulate(prepare(t, sources, key=key, axes=axes, sides=sides, weigh=True))


def tabulate(ready: Ready, streams: bool = False) -> Plan:
    """The table of what is ready to run. streams: into a sink that takes results as they are computed."""
    t, work, made = ready.t, ready.work, ready.made or {}

    def row(path: Path) -> Row:
        spec, leaf = work.specs.get(path), work.sources[0].abstract(path)
        ins = [s.abstract(path) for s in work.sources]
        given = (sum(map(stored_bits, ins)) + stored_bits(work.side(path, read=False))) // 8
        if spec is None:
            shape, dtype = tuple(getattr(leaf, "shape", ())), str(getattr(leaf, "dtype", type(leaf).__name__))
            return Row(show(path), (), shape, dtype, dtype, given, -(-stored_bits(leaf) // 8))
        out = made[path]
        kind = str(out.dtype) if type(out).__name__ == "ShapeDtypeStruct" else type(out).__name__
        cost, parts = ready.costs.get(path, Held()), ready.cuts.get(path, 1)
        reading = sum(source.reading(path) for source in work.files(path))
        holds = max(cost.lift + reading, cost.held(parts, reading))
        writes, rounds = cost.made // parts, cost.rounds if path in ready.cuts else 0
        share = 1 / portions(spec) if streams and parts == 1 and cost.parted is not None else 1.0
        holds -= int(writes * (1 - share))
        sizes = given, -(-stored_bits(out) // 8), holds, int(writes * share), share, rounds
        return Row(spec.path, work.steps[path], spec.shape, str(spec.dtype), kind, *sizes)

    return Plan(t.name, t.passes, t.scope, tuple(row(path) for path in work.names))


def is_lazy(tree: Tree) -> bool:
    """Whether a tree is a checkpoint that knows its shapes, to be read a leaf at a time."""
    return isinstance(tree, Mapping) and hasattr(tree, "specs")
