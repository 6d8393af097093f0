"""Terms: what one axis is made of, and unification of two axes that an operation makes the same.

An axis is an atom, a product of factors (heads x head_dim, major first) or a sum of segments (query, key, value side by
side). Nodes are shared by reference: when a slice or a reshape cuts an atom, every value that has it is cut with it.
What can't be cut is pinned: nothing may move it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

_born = itertools.count()
TORN = "no common factors"  # the reason where structures don't fit: what the axis is made of is lost


class Node:
    """One axis or part of one. `pinned` is why it may not move, or None. Ask `find(node)` for what it is now."""

    __slots__ = ("born", "how", "parent", "parts", "pinned", "size")

    def __init__(self, size: int, pinned: str | None = None) -> None:
        self.size = int(size)  # sizes may come as numpy integers, from cuts
        self.how: Literal["atom", "product", "sum"] = "atom"
        self.parts: tuple[Node, ...] = ()
        self.parent: Node | None = None
        self.pinned = pinned
        self.born = next(_born)


def find(node: Node) -> Node:
    """What a node has become."""
    root = node
    while root.parent is not None:
        root = root.parent
    while node.parent is not None:
        node.parent, node = root, node.parent
    return root


def product(parts: Sequence[Node]) -> Node:
    """Factors, major first, as one axis."""
    flat = [f for part in parts for f in factors(part)]
    return flat[0] if len(flat) == 1 else _made("product", math.prod(f.size for f in flat), flat)


def total(parts: Sequence[Node]) -> Node:
    """Segments side by side as one axis."""
    flat = [s for part in parts for s in segments(part)]
    return flat[0] if len(flat) == 1 else _made("sum", sum(s.size for s in flat), flat)


def _made(how: Literal["product", "sum"], size: int, parts: Sequence[Node]) -> Node:
    node = Node(size)
    if parts:
        node.how, node.parts = how, tuple(parts)
    return node


def factors(node: Node) -> list[Node]:
    """The factors of an axis, major first; none for an axis of size 1."""
    node = find(node)
    if node.size == 1:
        return []
    return [f for part in node.parts for f in factors(part)] if node.how == "product" else [node]


def segments(node: Node) -> list[Node]:
    """The segments of an axis in order; none for an axis of size 0."""
    node = find(node)
    if node.size == 0:
        return []
    return [s for part in node.parts for s in segments(part)] if node.how == "sum" else [node]


def pin(node: Node, why: str) -> None:
    """Nothing may move this axis any more."""
    node = find(node)
    for part in node.parts:
        pin(part, why)
    node.pinned = _first(node.pinned, why)


def _first(a: str | None, b: str | None) -> str | None:
    """The reason that stays: the first one, but TORN before all."""
    return TORN if TORN in (a, b) else a or b


def cut(node: Node, sizes: Sequence[int]) -> list[Node]:
    """The axis as segments of these sizes. Pins it if a cut falls inside a factor."""
    pieces = iter(_cut(find(node), [s for s in sizes if s]))
    return [next(pieces) if s else Node(0) for s in sizes]


def _cut(node: Node, sizes: Sequence[int]) -> list[Node]:
    if len(sizes) <= 1:
        return [node]
    if node.how == "atom":
        _become(node, "sum", [Node(s, node.pinned) for s in sizes])
        return list(node.parts)
    if node.how == "sum":
        return _cut_sum(node, sizes)
    first, *rest = factors(node)
    inner = node.size // first.size
    if all(s % inner == 0 for s in sizes):
        return [product([piece, *rest]) for piece in cut(first, [s // inner for s in sizes])]
    pin(node, TORN)
    return [Node(s, TORN) for s in sizes]


def _cut_sum(node: Node, sizes: Sequence[int]) -> list[Node]:
    pieces: list[list[Node]] = [[] for _ in sizes]
    edges = list(itertools.accumulate(sizes))
    start = 0
    for part in segments(node):
        end = start + part.size
        inner = [start, *(e for e in edges if start < e < end), end]
        for piece, low in zip(cut(part, [b - a for a, b in itertools.pairwise(inner)]), inner, strict=False):
            pieces[next(k for k, e in enumerate(edges) if low < e)].append(piece)
        start = end
    return [total(p) for p in pieces]


def carve(node: Node, sizes: Sequence[int]) -> list[Node]:
    """The axis as factors of these sizes, major first. Pins it if it has no such factors."""
    left = factors(node)
    out: list[list[Node]] = []
    for size in sizes:
        got: list[Node] = []
        have = 1
        while have < size and left:
            want = size // have
            if want * have == size and _halve(left[0], want):
                left = [*factors(left[0]), *left[1:]]
            if size % (have * left[0].size):
                pin(node, TORN)
                return [Node(s, TORN) for s in sizes]
            have *= left[0].size
            got.append(left.pop(0))
        out.append(got)
    return [product(p) for p in out]


def _halve(node: Node, major: int) -> bool:
    """Make a larger node the product of `major` and the rest. False if it is small enough, or has no such factors."""
    node = find(node)
    if node.size <= major or node.size % major:
        return False
    minor = node.size // major
    if node.how == "atom":
        _become(node, "product", [Node(major, node.pinned), Node(minor, node.pinned)])
        return True
    if any(s.size % minor for s in segments(node)):
        return False
    pairs = [carve(s, [s.size // minor, minor]) for s in segments(node)]
    for pair in pairs[1:]:
        unify(pairs[0][1], pair[1])
    _become(node, "product", [total([pair[0] for pair in pairs]), pairs[0][1]])
    return True


def _become(node: Node, how: Literal["product", "sum"], parts: Sequence[Node]) -> None:
    node.how, node.parts = how, tuple(parts)


def rejoin(node: Node, why: str) -> tuple[Node, ...]:
    """Make an axis whole again that was cut up, and pin it. Returns its pieces."""
    node = find(node)
    parts = node.parts
    node.how, node.parts, node.pinned = "atom", (), why
    return parts


def unify(a: Node, b: Node) -> None:
    """Make two axes of one size the same: one permutation moves both. Pins both where their structures don't fit."""
    a, b = find(a), find(b)
    if a is b or a.size <= 1:
        return
    if b.how == "atom" and (a.how != "atom" or a.born < b.born):
        a, b = b, a
    why = _first(a.pinned, b.pinned)
    if a.how == "sum" and b.how == "product":
        a, b = b, a
    if a.how == "product" and b.how == "product":
        theirs = factors(b)
        for x, y in zip(carve(a, [f.size for f in theirs]), theirs, strict=True):
            unify(x, y)
    elif a.how != "atom":
        theirs = segments(b)
        for x, y in zip(cut(a, [s.size for s in theirs]), theirs, strict=True):
            unify(x, y)
    a, b = find(a), find(b)
    if a is not b:
        a.parent = b
    if why:
        pin(b, why)


class Cell(NamedTuple):
    """An atom's place within an axis: one more of its coordinate is `stride` positions further.

    `start` is its first position, other factors at their first; it names the place.
    """

    atom: Node
    stride: int
    start: int


class Strip(NamedTuple):
    """Positions `offset + sum(coordinate * stride)` of an axis: an axis is one strip, or one a segment."""

    offset: int
    cells: tuple[Cell, ...]


def strips(node: Node) -> tuple[Strip, ...]:
    """The axis flattened: every way through its sums, each with its atoms, major first."""
    node = find(node)
    if node.size == 1:
        return (Strip(0, ()),)
    if node.how == "atom":
        return (Strip(0, (Cell(node, 1, 0),)),)
    if node.how == "sum":
        starts = itertools.accumulate((find(p).size for p in node.parts), initial=0)
        return tuple(
            Strip(start + s.offset, tuple(c._replace(start=start + c.start) for c in s.cells))
            for part, start in zip(node.parts, starts, strict=False)
            for s in strips(part)
        )
    made = [Strip(0, ())]
    stride = node.size
    for part in node.parts:
        stride //= find(part).size
        made = [
            Strip(
                m.offset + s.offset * stride,
                (*m.cells, *(Cell(c.atom, c.stride * stride, c.start * stride) for c in s.cells)),
            )
            for m in made
            for s in strips(part)
        ]
    return tuple(made)


def cells(node: Node) -> list[Cell]:
    """The places of all atoms of an axis, each once."""
    return list(dict.fromkeys(c for s in strips(node) for c in s.cells))
