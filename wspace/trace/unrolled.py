"""Stacks that a program takes apart by index: `p["w"][0]`, `p["w"][1]`, ... in place of a scan.

What lies in one layer's slice is known to be of that layer as far as no operation puts it together with another's:
then a group may have one element for each layer, as under a scan.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

from wspace.trace.spots import Spot, at_label
from wspace.trace.terms import Cell, Node, cells, factors, find, rejoin, segments, unify
from wspace.trace.walk import Label, Op, Place, Value

K = TypeVar("K", bound=Hashable)
Mark = int | None  # the coordinate of a slice, or None: all of the stack


class Taken(NamedTuple):
    """One operation takes coordinate `at` of a stacked axis; `out` is the result that has it."""

    stack: Node
    at: int
    out: int


def take_apart(ops: Sequence[Op], leaves: Sequence[Value]) -> dict[int, list[Taken]]:
    """By number of the operation, the slices of stacks of which every coordinate is read, one at a time.

    An axis that is cut up in this way becomes whole again: an index. Leaves with equally many layers share one.
    """
    found = {k: made for k, op in enumerate(ops) if (made := list(_taken(op)))}
    read: dict[Node, set[int]] = {}
    for one in (one for made in found.values() for one in made):
        read.setdefault(one.stack, set()).add(one.at)
    stacks = [[n for n in dict.fromkeys(map(find, _cut_up(leaf))) if len(read.get(n, ())) == n.size] for leaf in leaves]
    whole = _made_whole(ops, dict.fromkeys(n for nodes in stacks for n in nodes))
    indices: dict[tuple[int, int], Node] = {}
    for nodes in stacks:
        for rank, node in enumerate(n for n in nodes if n in whole):
            unify(indices.setdefault((node.size, rank), node), node)
    known = {find(n) for n in indices.values()}
    kept = {k: [one._replace(stack=find(one.stack)) for one in made] for k, made in found.items()}
    return {k: mine for k, made in kept.items() if (mine := [one for one in made if one.stack in known])}


def _made_whole(ops: Sequence[Op], nodes: Iterable[Node]) -> set[Node]:
    """Make cut axes whole again, but those that some operation has shifted: they stay in pieces."""
    before = {node: rejoin(node, "taken apart") for node in nodes}
    for op in ops if before else ():
        for label in op.labels:
            for cell in cells(label.node):
                if cell.atom in before and not all(_there(op, i, p, cell) for i, p in label.places.items()):
                    cell.atom.how, cell.atom.parts = "sum", before.pop(cell.atom)
    return set(before)


def _there(op: Op, i: int, place: Place | None, cell: Cell) -> bool:
    """Whether an operand has a cell of a label just where the label says."""
    if place is None:
        return True
    wanted = Cell(cell.atom, cell.stride * place.stride, (place.offset or 0) + cell.start * place.stride)
    return wanted in cells((*op.ins, *op.outs)[i].axes[place.axis])


def _cut_up(leaf: Value) -> Iterator[Node]:
    """Factors of a leaf's axes that are cut into single coordinates."""
    for node in leaf.axes:
        yield from (f for f in factors(node) if f.how == "sum" and all(s.size == 1 for s in segments(f)))


def _taken(op: Op) -> Iterator[Taken]:
    """What an operation takes of the major factor of an axis, if it is one coordinate."""
    p, out = op.params, len(op.ins)
    if op.name == "slice":
        steps = p["strides"] or (1,) * len(op.ins[0].axes)
        ranges = [
            (k, a, b - a, out) for k, (a, b) in enumerate(zip(p["start_indices"], p["limit_indices"], strict=True))
        ]
        ranges = [r for r in ranges if steps[r[0]] == 1]
    elif op.name == "split":
        starts = [sum(p["sizes"][:j]) for j in range(len(p["sizes"]))]
        ranges = [(p["axis"], a, n, out + j) for j, (a, n) in enumerate(zip(starts, p["sizes"], strict=True))]
    elif op.name == "unstack":
        ranges = [(p["axis"], j, 1, out + j) for j in range(len(op.outs))]
    else:
        return
    for axis, start, size, result in ranges:
        parts = factors(op.ins[0].axes[axis])
        inner = op.ins[0].axes[axis].size // parts[0].size if parts else 0
        if parts and size == inner and start % inner == 0:
            yield Taken(parts[0], start // inner, result)


class Act(NamedTuple):
    """A group acts on an atom of an operation's label, in some of its operands and results."""

    op: int
    label: Label
    cell: Cell
    at: frozenset[int]


class Layers(Generic[K]):
    """For each group and index: are all of its places in one operation of one layer?"""

    def __init__(self, ops: Sequence[Op], taken: Mapping[int, list[Taken]], acts: Mapping[K, Sequence[Act]]) -> None:
        self.ops, self.taken = ops, taken
        self.indices = list(dict.fromkeys(one.stack for made in taken.values() for one in made))
        self.joined: dict[tuple[K, Node, Spot], tuple[K, Node, Spot]] = {}
        self.marks: dict[tuple[K, Node, Spot], set[Mark]] = {}
        for key, mine in acts.items() if self.indices else ():
            for act in mine:
                self._join(key, act)
        for key, mine in acts.items() if self.indices else ():
            for act in mine:
                self._mark(key, act)

    def along(self, key: K, act: Act) -> tuple[set[Node], set[Node]]:
        """Indices whose coordinate is the same wherever the group acts here, and those where it can't be told."""
        known, torn = set(), set()
        for index in self.indices:
            marks = [self.marks.get(self._root((key, index, spot)), set()) for _, spot in self._spots(act)]
            if any(len(m) > 1 for m in marks):
                torn.add(index)
            elif self.ops[act.op].name == "leaf":
                continue  # a leaf has to have the index itself
            elif all(marks) and (index in self._cuts(act.op) or not any(None in m for m in marks)):
                known.add(index)
        return known, torn

    def _join(self, key: K, act: Act) -> None:
        """One layer for all places, but from a stack to its slice."""
        spots = self._spots(act)
        for index in self.indices:
            if index not in self._cuts(act.op):
                for _, spot in spots[1:]:
                    a, b = self._root((key, index, spots[0][1])), self._root((key, index, spot))
                    if a != b:
                        self.joined[a] = b

    def _mark(self, key: K, act: Act) -> None:
        op = self.ops[act.op]
        every = (*op.ins, *op.outs)
        for i, spot in self._spots(act):
            for index in self.indices:
                marks = self.marks.setdefault(self._root((key, index, spot)), set())
                if any(c.atom is index for n in (*every[i].axes, *op.loops) for c in cells(n)):
                    marks.add(None)
                marks |= {one.at for one in self.taken.get(act.op, ()) if one.stack is index and one.out == i}

    def _cuts(self, op: int) -> set[Node]:
        return {one.stack for one in self.taken.get(op, ())}

    def _spots(self, act: Act) -> list[tuple[int, Spot]]:
        op = self.ops[act.op]
        every = (*op.ins, *op.outs)
        places = ((i, p) for i, p in act.label.places.items() if i in act.at)
        return [(i, spot) for i, p in places for spot in at_label(every, i, p, act.label.node, act.cell)]

    def _root(self, spot: tuple[K, Node, Spot]) -> tuple[K, Node, Spot]:
        while spot in self.joined:
            spot = self.joined[spot]
        return spot
