"""From the records of a walk to permutation groups: atoms that nothing pinned, with names, members and indices."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import TypeVar

from wspace.core.containers import show
from wspace.core.typing import Path
from wspace.trace.depend import closed, dependencies, used
from wspace.trace.groups import Factor, Group, Layout, Member, Strip, Symmetries
from wspace.trace.terms import Node, cells, pin, strips
from wspace.trace.unrolled import Taken, take_apart
from wspace.trace.walk import Value, Walk


def permutations(walk: Walk, leaves: Mapping[Path, Value]) -> Symmetries:
    """The groups of kind "permutation". What no operation reads is pinned: other inputs might read it."""
    taken = take_apart(walk.ops, list(leaves.values()))
    touched, members = read(walk), places(walk, leaves)
    for atom in members:
        if atom not in touched:
            pin(atom, "not read")
    return grouped("permutation", walk, leaves, taken, members)


def grouped(
    kind: str,
    walk: Walk,
    leaves: Mapping[Path, Value],
    taken: Mapping[int, list[Taken]],
    members: Mapping[Node, Sequence[Member]],
    still: Collection[Path] = (),
) -> Symmetries:
    """One group for each atom that nothing pinned; no group acts on the leaves in `still`."""
    movable = {atom for atom in members if atom.pinned is None and atom.size > 1}
    over = closed(
        dependencies(
            walk.ops,
            walk.still,
            taken,
            lambda op, label, cell: [(cell.atom, frozenset(label.places))] if cell.atom in movable else [],
            lambda v, k, cell: [cell.atom] if cell.atom in movable else [],
        )
    )
    indices = {i for f in movable for i in over.get(f, ())}
    names = named([a for a in members if a in movable or a in indices], members)
    order = sorted((a for a in members if a in movable), key=lambda a: len(over.get(a, ())))
    groups = [group(names[a], a, members[a], over.get(a, ()), names) for a in order]
    whys = {path: {k: why for k, n in enumerate(v.axes) if (why := _why(n))} for path, v in leaves.items()}
    layout = laid_out(leaves, names)
    fixed = laid_out({path: leaves[path] for path in still}, {})
    return Symmetries(
        kind,
        {g.name: g for g in groups},
        {**layout, **fixed},
        {path: why for path, why in whys.items() if why},
        dict(walk.unknown),
        unread(walk, leaves),
    )


def read(walk: Walk) -> set[Node]:
    """Atoms that some operation reads."""
    return used([op for op in walk.ops if op.name != "leaf"])


def group(name: str, atom: Node, members: Sequence[Member], over: Sequence[Node], names: Mapping[Node, str]) -> Group:
    """One group, of an atom that depends on others."""
    return Group(name, atom.size, tuple(members), tuple(names[i] for i in over), tuple(i.size for i in over))


def places(walk: Walk, leaves: Mapping[Path, Value]) -> dict[Node, list[Member]]:
    """Where each atom lies in the leaves; those that are read first come first."""
    first = _first_use(walk, leaves)
    out: dict[Node, list[Member]] = {}
    for path in sorted(leaves, key=lambda path: first.get(path, len(walk.ops))):
        for k, node in enumerate(leaves[path].axes):
            for cell in cells(node):
                out.setdefault(cell.atom, []).append(Member(path, k, cell.start, cell.stride))
    return out


def laid_out(leaves: Mapping[Path, Value], names: Mapping[Node, str]) -> Layout:
    """Every leaf's axes as strips of named factors."""

    def strip_of(node: Node) -> tuple[Strip, ...]:
        return tuple(
            Strip(s.offset, tuple(Factor(names.get(c.atom), c.atom.size, c.stride, c.start) for c in s.cells))
            for s in strips(node)
        )

    return {path: tuple(strip_of(node) for node in leaf.axes) for path, leaf in leaves.items()}


def unread(walk: Walk, leaves: Mapping[Path, Value]) -> tuple[Path, ...]:
    """Leaves that no operation reads."""
    first = _first_use(walk, leaves)
    return tuple(path for path in leaves if path not in first)


def _first_use(walk: Walk, leaves: Mapping[Path, Value]) -> dict[Path, int]:
    """Which operation reads a leaf first."""
    paths = {leaf.uid: path for path, leaf in leaves.items()}
    first: dict[Path, int] = {}
    for k, op in enumerate(walk.ops):
        for v in op.ins:
            if v.uid in paths:
                first.setdefault(paths[v.uid], k)
    return first


def _why(node: Node) -> str | None:
    """Why an axis is fixed: the reasons of its atoms, or None if one of them moves."""
    whys = [c.atom.pinned for c in cells(node)]
    return ", ".join(dict.fromkeys(w for w in whys if w)) if whys and all(whys) else None


K = TypeVar("K", bound=Hashable)


def named(atoms: Sequence[K], members: Mapping[K, Sequence[Member]]) -> dict[K, str]:
    """A group is called after the module of the leaf that is read first; where two share it, leaf and axis too."""
    tries: list[Callable[[Member], str]] = [
        lambda m: show(m.path[:-1]) or re.sub(r"[./](kernel|weight|w)$", "", show(m.path)),
        lambda m: f"{show(m.path)}[{m.axis}]",
        lambda m: f"{show(m.path)}[{m.axis}]/{m.stride}",
        lambda m: f"{show(m.path)}[{m.axis}]/{m.stride}+{m.offset}",
    ]
    out: dict[K, str] = {}
    for name in tries:
        words = {a: name(members[a][0]) for a in atoms if a not in out}
        count = Counter(words.values())
        out |= {a: w for a, w in words.items() if count[w] == 1 and w not in out.values()}
    return out
