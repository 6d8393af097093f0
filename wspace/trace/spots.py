"""Spots: where an atom lies in the arrays of a program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from wspace.trace.terms import Cell, Node, cells
from wspace.trace.walk import Place, Value

Spot: TypeAlias = tuple[int, int, Cell]  # array, axis, place in the axis


def spots_of(v: Value) -> list[Spot]:
    """All spots of an array."""
    return [(v.uid, k, cell) for k, node in enumerate(v.axes) for cell in cells(node)]


def at_label(every: Sequence[Value], i: int, place: Place | None, node: Node, cell: Cell) -> list[Spot]:
    """A label's atom as operand i has it: none if the axis has become something else, several if it is in parts."""
    if place is None:
        return []
    v = every[i]
    axis, stride, first = v.axes[place.axis], cell.stride * place.stride, place.offset or 0
    own = [c for c in cells(axis) if c.atom is cell.atom and c.stride == stride]
    if place.offset is not None:
        own = [c for c in own if first <= c.start < first + node.size] or own
    mine = {first + c.start * place.stride for c in cells(node) if c.atom is cell.atom and c.stride == cell.stride}
    if {c.start for c in own} == mine:
        own = [c for c in own if c.start == first + cell.start * place.stride]
    return [(v.uid, place.axis, c) for c in own]
