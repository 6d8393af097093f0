"""Which group has one permutation for each coordinate of another axis: head_dim by head, hidden by layer.

A factor f may be moved differently for each coordinate of i if, in every operation, i lies along wherever f does:
within the same operands and results. Where f stands alone (a bias shared by all heads), one permutation must do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from wspace.trace.terms import Cell, Node, cells, find, strips
from wspace.trace.unrolled import Act, Layers, Taken
from wspace.trace.walk import Label, Op, Value

Strips = tuple[tuple[Cell, ...], ...]  # an axis: the atoms of each strip
K = TypeVar("K", bound=Hashable)


def dependencies(
    ops: Sequence[Op],
    still: Iterable[tuple[Value, Node]],
    taken: Mapping[int, list[Taken]],
    by_label: Callable[[Op, Label, Cell], Iterable[tuple[K, frozenset[int]]]],
    by_value: Callable[[Value, int, Cell], Iterable[K]],
) -> dict[K, frozenset[Node]]:
    """For each group the atoms it may depend on.

    Args:
      ops: the records.
      still: values that are the same on every turn of a loop.
      taken: by number of the record, what it takes of a stack.
      by_label: the groups that act on an atom of a label, each with the operands and results where it does.
      by_value: the groups that act on an atom of an array's axis.
    """
    acts: dict[K, list[Act]] = {}
    for n, label, cell in _labelled(ops):
        for key, at in by_label(ops[n], label, cell):
            acts.setdefault(key, []).append(Act(n, label, cell, at))
    layers = Layers(ops, taken, acts)
    allowed: dict[K, frozenset[Node]] = {}
    seen: dict[Node, Strips] = {}
    for key, mine in acts.items():
        allowed[key] = frozenset.intersection(
            *(_beside(ops[act.op], act, layers.along(key, act), seen) for act in mine)
        )
    checked: set[tuple[int, tuple[Node, ...]]] = set()
    for op in ops:
        turns = [_everywhere(_strips(turn, seen)) for turn in op.loops]
        for v in (*op.ins, *op.outs):
            if (v.uid, op.loops) not in checked:
                checked.add((v.uid, op.loops))
                for k, cell, twice in _ambiguous([_strips(n, seen) for n in v.axes], turns):
                    for key in by_value(v, k, cell):
                        allowed[key] = allowed.get(key, frozenset()) - twice
    for v, turn in still:
        index = {c.atom for c in cells(turn)}
        if index.isdisjoint(c.atom for node in v.axes for c in cells(node)):  # else it has the index itself
            for k, node in enumerate(v.axes):
                for key in (key for cell in cells(node) for key in by_value(v, k, cell)):
                    allowed[key] = allowed.get(key, frozenset()) - index
    return allowed


def _labelled(ops: Sequence[Op]) -> Iterator[tuple[int, Label, Cell]]:
    seen: dict[Node, Strips] = {}
    for n, op in enumerate(ops):
        for label in op.labels:
            if label.used:
                yield from ((n, label, c) for c in {c for s in _strips(label.node, seen) for c in s})


def _beside(op: Op, act: Act, layers: tuple[set[Node], set[Node]], seen: dict[Node, Strips]) -> frozenset[Node]:
    """The indices that lie along wherever a group acts in one operation."""
    parts = [(label, _strips(label.node, seen)) for label in op.labels if label.used]
    own = _strips(act.label.node, seen)
    within = frozenset.intersection(*(frozenset(c.atom for c in s) for s in own if act.cell in s))
    turns = (_everywhere(_strips(turn, seen)) for turn in op.loops)
    beside = (_everywhere(s) for m, s in parts if m is not act.label and m.places.keys() >= act.at)
    return within.union(*turns, *beside, layers[0]) - layers[1] - {act.cell.atom}


def _ambiguous(axes: Sequence[Strips], turns: Sequence[frozenset[Node]]) -> Iterator[tuple[int, Cell, frozenset[Node]]]:
    """Indices that lie along an atom at two places of one array: by which of them is it moved?"""
    most = [_most(Counter(c.atom for c in s) for s in axis) for axis in axes]
    most += [Counter(turn) for turn in turns]
    if sum(n for count in most for n in count.values()) == len({a for count in most for a in count}):
        return  # the usual case: no atom twice
    for k, axis in enumerate(axes):
        beside: Counter[Node] = sum((count for j, count in enumerate(most) if j != k), Counter())
        for strip in axis:
            twice = frozenset(a for a, n in (beside + Counter(c.atom for c in strip)).items() if n > 1)
            yield from ((k, cell, twice) for cell in strip)


def _most(counts: Iterable[Counter[Node]]) -> Counter[Node]:
    out: Counter[Node] = Counter()
    for count in counts:
        out |= count
    return out


def _strips(node: Node, seen: dict[Node, Strips]) -> Strips:
    node = find(node)
    if node not in seen:
        seen[node] = tuple(s.cells for s in strips(node))
    return seen[node]


def _everywhere(axis: Strips) -> frozenset[Node]:
    return frozenset.intersection(*(frozenset(c.atom for c in s) for s in axis)) if axis else frozenset()


def closed(allowed: Mapping[Node, frozenset[Node]]) -> dict[Node, tuple[Node, ...]]:
    """Of two that could depend on each other the younger depends; what depends on i depends on all that i does."""
    keep = {f: {i for i in index if f not in allowed.get(i, ()) or i.born < f.born} for f, index in allowed.items()}
    changed = True
    while changed:
        changed = False
        for f, index in keep.items():
            loose = {i for i in index if not keep.get(i, set()) <= index or f in keep.get(i, ())}
            if loose:
                index -= loose
                changed = True
    return {f: in_order(index) for f, index in keep.items()}


def in_order(nodes: Iterable[Node]) -> tuple[Node, ...]:
    """The oldest first."""
    return tuple(sorted(nodes, key=lambda n: n.born))


def used(ops: Sequence[Op]) -> set[Node]:
    """Atoms that an operation reads, more than to cut them off."""
    return {c.atom for op in ops for label in op.labels if label.used for s in strips(label.node) for c in s.cells}
