"""Aligning trees and side trees leaf by leaf, and saying in one line where they differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wspace.core.axes import Axes
from wspace.core.containers import as_params, is_weight, show
from wspace.core.errors import SHOWN, SideTreeError, TreeMismatch, listed
from wspace.core.implicit import Implicit, stored_bits
from wspace.core.select import Spec
from wspace.core.transform import Steps, Transform
from wspace.core.typing import Index, Leaf, Path, Tree

Given = tuple[tuple[Leaf, ...], dict[str, Any]]  # a leaf of every tree, and its side entries


class ByPath(Mapping[Path, Leaf]):
    """A mapping of arrays (a checkpoint, a dict) seen by path: a plain name is a path of one key. Reads lazily."""

    def __init__(self, source: Mapping[Any, Leaf]) -> None:
        self.source = source
        self.names = {name if isinstance(name, tuple) else (name,): name for name in source}
        self.specs = getattr(source, "specs", None)

    def __getitem__(self, path: Path) -> Leaf:
        return self.source[self.names[path]]

    def part(self, path: Path, index: Index) -> Leaf:
        """A part of a leaf: where the source can, only that is read."""
        name, part = self.names[path], getattr(self.source, "part", None)
        return self.source[name][index] if part is None else part(name, index)

    def parts(self, path: Path) -> bool:
        """Whether a part of a leaf can be had without the leaf in memory: it is there already, or the source can."""
        can = getattr(self.source, "parts", lambda name: isinstance(self.source, dict))
        return bool(can(self.names[path]))

    def reading(self, path: Path) -> int:
        """Bytes of anonymous memory that reading a leaf takes: none where it is there already, or mapped."""
        return int(getattr(self.source, "reading", lambda name: 0)(self.names[path]))

    def __contains__(self, path: object) -> bool:
        return path in self.names  # the default of Mapping would read the leaf

    def __iter__(self) -> Iterator[Path]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def abstract(self, path: Path) -> Any:
        """Shape and dtype of a leaf, without reading it where the source knows them; other leaves as they are."""
        if self.specs is not None:
            spec = self.specs[self.names[path]]
            if isinstance(spec, Implicit):
                return spec
            shape, dtype, *_ = spec
            return jax.ShapeDtypeStruct(tuple(shape), dtype)
        return abstract(self[path])


def abstract(leaf: Leaf) -> Any:
    """A leaf (or the nodes of an Implicit one) as ShapeDtypeStruct, shardings kept; other objects unchanged."""

    def one(x: Any) -> Any:
        if isinstance(x, jax.core.Tracer | jax.ShapeDtypeStruct) or not hasattr(x, "dtype"):
            return x
        return jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=getattr(x, "sharding", None))

    return jax.tree.map(one, leaf)


@dataclass(frozen=True)
class Aligned:
    """Sources and sides that agree. `specs`: the leaves to transform; `names`: all leaves in the first one's order."""

    sources: list[ByPath]
    names: Mapping[Path, Any]
    specs: dict[Path, Spec]
    sides: dict[str, Any]
    steps: Steps
    read: Counter[str] = field(default_factory=Counter)  # bytes of each leaf that were read so far, of all trees

    def given(self, path: Path) -> Given:
        """A leaf of every tree, and its entries of side trees, read."""
        return self._counted(path, (tuple(source[path] for source in self.sources), self.side(path)))

    def _counted(self, path: Path, given: Given) -> Given:
        leaves, sides = given
        self.read[show(path)] += (sum(map(stored_bits, leaves)) + stored_bits(sides)) // 8
        return given

    def side(self, path: Path, read: bool = True) -> dict[str, Any]:
        """One leaf's share of every side tree: a value, or a tuple with one a tree; shapes only if not read."""
        return {name: _entry(side, path, read) for name, side in self.sides.items()}

    def part(self, path: Path, index: Index) -> Given:
        """The same part of a leaf of every tree, and of its entries of side trees."""
        sides = {name: _entry(side, path, index=index) for name, side in self.sides.items()}
        return self._counted(path, (tuple(source.part(path, index) for source in self.sources), sides))

    def files(self, path: Path) -> Iterator[ByPath]:
        """Every source and side tree that is read for a leaf."""
        sides = [s for side in self.sides.values() for s in (side if isinstance(side, tuple) else (side,))]
        yield from (s for s in (*self.sources, *sides) if isinstance(s, ByPath) and path in s)

    def passing(self, path: Path) -> Leaf:
        """A leaf that no transform touches, once every tree agrees on it."""
        (first, *others), sides = self.given(path)
        base = sides.get("base")
        for k, other in enumerate([*others, *([] if base is None else [base])]):
            if not _same(first, other):
                raise TreeMismatch(
                    f"{show(path)} is no floating array, so it passes through unchanged, but tree 1 and tree {k + 2} "
                    f"disagree on it; make them equal, or convert it to float to have it transformed"
                )
        return first

    def ties(self) -> dict[Path, Path]:
        """Leaves that are one jax array at several paths in every tree, with the same steps and entries of side trees.

        Path -> the first path with that array.
        """
        firsts: dict[Any, Path] = {}
        tied: dict[Path, Path] = {}
        for path in self.specs:
            leaves = [s.source[s.names[path]] for s in self.sources if isinstance(s.source, dict)]
            if len(leaves) == len(self.sources) and all(isinstance(x, jax.Array) for x in leaves):
                same = (*map(id, leaves), self.steps[path], *(_identity(side, path) for side in self.sides.values()))
                first = firsts.setdefault(same, path)
                if first != path:
                    tied[path] = first
        return tied


def align(t: Transform, sources: Sequence[Mapping[Any, Leaf]], sides: Mapping[str, Tree], axes: Axes | None) -> Aligned:
    """Check that all trees have the same leaves, shapes and kinds; resolve selectors; look side trees up.

    Raises:
      TreeMismatch, SideTreeError, SelectionError: with every difference, up to 20.
    """
    trees = [ByPath(s) for s in sources]
    first = trees[0]
    structs = {path: first.abstract(path) for path in first}
    names = [_named(f"tree {k}", tree) for k, tree in enumerate(trees, start=1)]
    for name, tree in zip(names[1:], trees[1:], strict=True):
        _check_same(structs, tree, name, names[0])
    for name, tree in zip(names, trees, strict=True):
        _check_alive(name, tree.source)
    layout = axes or Axes()
    specs = {
        path: Spec(show(path), tuple(x.shape), x.dtype, layout.of(path, tuple(x.shape)))
        for path, x in structs.items()
        if is_weight(x)
    }
    steps = t.steps(specs) if specs else {}
    missing, unused = t.needs - {"key"} - sides.keys(), sides.keys() - t.needs
    if missing:
        call = ", ".join(f"{n}=..." for n in sorted(missing))
        raise SideTreeError(f"{t.name} needs the side tree(s) {listed(sorted(missing))}; call it as t(params, {call})")
    if unused:
        raise SideTreeError(f"{t.name} does not use side tree(s) {listed(sorted(unused))}; it needs {sorted(t.needs)}")
    found = {name: _side(name, side, structs, len(trees)) for name, side in sides.items()}
    for name, side in found.items():
        for entries in side if isinstance(side, tuple) else (side,):
            _check_alive(f"side tree {name!r}", entries)
    if "base" in found:
        _check_same(structs, found["base"], _named("base", found["base"]), names[0])
    return Aligned(trees, first.names, specs, found, steps)


def _named(who: str, tree: Any) -> str:
    """With the name that a source has of its own."""
    label = getattr(tree.source, "label", "") if isinstance(tree, ByPath) else ""
    return f"{who} ({label})" if label and label != who else who


def _check_same(structs: Mapping[Path, Any], tree: Any, who: str, first: str) -> None:
    missing, extra = structs.keys() - tree.keys(), tree.keys() - structs.keys()
    if missing or extra:
        parts = [
            f"{word} {listed(sorted(map(show, paths)))}"
            for word, paths in (("lacks", missing), ("has also", extra))
            if paths
        ]
        raise TreeMismatch(f"{who} does not match {first}: it {'; it '.join(parts)}")
    wrong = []
    for path, x in structs.items():
        y = tree.abstract(path) if isinstance(tree, ByPath) else abstract(tree[path])
        a, b = getattr(x, "shape", None), getattr(y, "shape", None)
        if a != b:
            wrong.append(f"{show(path)} is {a} in {first} and {b} in {who}{_hint(a, b)}")
        elif is_weight(x) != is_weight(y):
            kinds = (getattr(leaf, "dtype", leaf) for leaf in (x, y))
            wrong.append(f"{show(path)} is {next(kinds)} in {first} and {next(kinds)} in {who}")
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise TreeMismatch(f"trees differ: {'; '.join(wrong[:SHOWN])}{more}")


def _hint(a: tuple[int, ...] | None, b: tuple[int, ...] | None) -> str:
    if not a or not b or len(a) != len(b):
        return ""
    if a == b[::-1]:
        return " (looks transposed: torch keeps [out, in], flax [in, out])"
    return " (only the first axis differs: another vocabulary?)" if a[1:] == b[1:] and len(a) > 1 else ""


def _check_alive(who: str, leaves: Mapping[Any, Any]) -> None:
    for name, leaf in leaves.items() if isinstance(leaves, dict) else ():
        for x in jax.tree.leaves(leaf):
            if isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer) and x.is_deleted():
                path = name if isinstance(name, tuple) else (name,)
                raise TreeMismatch(f"{show(path)} of {who} was deleted (donated to a jit?); pass a live copy")


def _side(name: str, side: Tree, structs: Mapping[Path, Any], trees: int) -> Any:
    """A side tree by path; a list or tuple with one side tree a tree becomes a tuple of them."""
    if isinstance(side, Mapping) and not isinstance(side, dict):
        return ByPath(side)
    entries = as_params(side, stop=structs).leaves
    if any(path in entries for path in structs):
        if stray := [show(p) for p in entries if p not in structs]:
            raise SideTreeError(f"side tree {name!r} has entries that are no leaf of the parameters: {listed(stray)}")
        return entries
    if isinstance(side, list | tuple) and len(side) == trees:
        return tuple(_side(name, s, structs, 0) for s in side)
    if isinstance(side, list | tuple) and trees:
        raise SideTreeError(
            f"side tree {name!r} is {len(side)} trees for {trees} models; give one for each, in their order"
        )
    ours, theirs = listed(map(show, structs), 3), listed(map(show, entries), 3)
    raise SideTreeError(f"side tree {name!r} has no leaf of the parameters: it has {theirs}, they have {ours}")


def _entry(side: Any, path: Path, read: bool = True, index: Index | None = None) -> Any:
    if isinstance(side, tuple):
        return tuple(_entry(s, path, read, index) for s in side)
    if path not in side:
        return None
    if index is not None:
        return side.part(path, index) if isinstance(side, ByPath) else side[path][index]
    if read:
        return side[path]
    return side.abstract(path) if isinstance(side, ByPath) else abstract(side[path])


def _identity(side: Any, path: Path) -> Any:
    """What is equal for two leaves only if they have the same entry of a side tree; one that is read from a file never
    is."""
    if isinstance(side, tuple):
        return tuple(_identity(s, path) for s in side)
    return id(side.get(path)) if isinstance(side, dict) else path


def _same(a: Any, b: Any) -> bool:
    """Whether two passing leaves agree. Values that are being traced can't be compared and count as equal."""
    if a is b or any(isinstance(x, jax.core.Tracer | jax.ShapeDtypeStruct) for x in (a, b)):
        return True
    if hasattr(a, "dtype") and hasattr(b, "dtype"):
        if a.dtype != b.dtype:
            return False
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        return bool(np.array_equal(np.asarray(a), np.asarray(b)))
    return type(a) is type(b) and bool(a == b)
