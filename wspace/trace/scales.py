"""From the records of a walk to scale groups: positive factors that cancel, by linear equations between exponents.

Every place of an atom in every array has an unknown exponent e: under a scale s the array is multiplied by s ** e
there. A product adds exponents, a sum wants them equal, a contraction opposite, whatever is not homogeneous wants 0.
The solutions that are left are the groups.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from functools import partial
from typing import TypeAlias

import jax.numpy as jnp

from wspace.core.typing import Path
from wspace.trace.depend import dependencies, in_order, used
from wspace.trace.groups import Group, Member, Symmetries
from wspace.trace.permutations import group, laid_out, named, places, unread
from wspace.trace.spots import Spot, at_label, spots_of
from wspace.trace.terms import TORN, Cell, Node, cells
from wspace.trace.unrolled import take_apart
from wspace.trace.walk import Label, Op, Value, Walk

Sum: TypeAlias = dict[Spot, Fraction]

EQUAL = frozenset(
    "abs add add_any broadcast_in_dim concatenate convert_element_type copy dynamic_slice dynamic_update_slice gather "
    "max min neg pad reduce_max reduce_min reduce_precision reduce_sum reduce_window_max reduce_window_min "
    "reduce_window_sum reshape same select_n slice split squeeze stack stop_gradient sub tile transpose turn "
    "unstack".split()
)
POWERS = {"square": Fraction(2), "sqrt": Fraction(1, 2), "rsqrt": Fraction(-1, 2), "cbrt": Fraction(1, 3)}
POSITIVE = frozenset(  # what a negative factor does not go through
    "abs max min reduce_max reduce_min reduce_window_max reduce_window_min rsqrt sign sqrt eq ne lt le gt ge".split()
)
COMPARE = frozenset("eq ne lt le gt ge".split())


def scales(walk: Walk, leaves: Mapping[Path, Value], odd: bool = False) -> Symmetries:
    """The groups of kind "scale"; with `odd` those whose factors may be negative or 0 (but where they divide)."""
    taken = take_apart(walk.ops, list(leaves.values()))
    system = _System()
    for op in walk.ops:
        for equation in _equations(op, system, odd):
            system.demand(equation)
    members, unused = places(walk, leaves), unread(walk, leaves)
    touched = used([op for op in walk.ops if op.name != "leaf"])
    atoms = [a for a in members if a.size > 1 and a in touched and a.pinned != TORN]
    found: dict[tuple[Node, Spot], list[Member]] = {}
    for atom in atoms:
        for m in members[atom]:
            spot = (leaves[m.path].uid, m.axis, Cell(atom, m.stride, m.offset))
            for root, e in system.solve({spot: Fraction(1)}).items() if m.path not in unused else ():
                found.setdefault((atom, root), []).append(m._replace(exponent=float(e)))
    indices = dependencies(walk.ops, walk.still, taken, partial(_on_label, system), partial(_on_value, system))
    parts = [a for a in members if a.size > 1]
    over = {key: in_order(indices.get(key, frozenset()) & set(parts)) for key in found}
    factors, names = named(parts, members), named(list(found), found)
    groups: dict[str, Group] = {}
    for key in sorted(found, key=lambda key: len(over[key])):
        unit = [m._replace(exponent=m.exponent / found[key][0].exponent) for m in found[key]]
        made = group(names[key], key[0], unit, over[key], factors)
        groups[made.name] = dataclasses.replace(made, factor=factors[key[0]])
    return Symmetries("scale", _without_coarser(groups), laid_out(leaves, factors), {}, dict(walk.unknown), unused)


def _on_label(system: _System, op: Op, label: Label, cell: Cell) -> Iterator[tuple[tuple[Node, Spot], frozenset[int]]]:
    """The groups that scale one axis of an operation, and in which operands and results."""
    at: dict[Spot, set[int]] = {}
    for i, place in label.places.items():
        for spot in at_label((*op.ins, *op.outs), i, place, label.node, cell):
            for root in system.solve({spot: Fraction(1)}):
                at.setdefault(root, set()).add(i)
    return (((cell.atom, root), frozenset(where)) for root, where in at.items())


def _on_value(system: _System, v: Value, axis: int, cell: Cell) -> set[tuple[Node, Spot]]:
    return {(cell.atom, root) for root in system.solve({(v.uid, axis, cell): Fraction(1)})}


def _without_coarser(groups: Mapping[str, Group]) -> dict[str, Group]:
    """One factor a head is a special case of one factor for each coordinate of each head: leave it out."""

    def powers(g: Group) -> dict[Path, float]:
        return {m.path: m.exponent for m in g.members}

    kept = dict(groups)
    for name, g in groups.items():
        if any(g.factor in f.over and powers(g) == powers(f) for f in kept.values() if f is not g):
            del kept[name]
    return kept


class _System:
    """Homogeneous linear equations, solved as they come: `sums` has each bound unknown in terms of free ones."""

    def __init__(self) -> None:
        self.sums: dict[Spot, Sum] = {}
        self.made: set[int] = set()  # arrays that an operation made, or leaves

    def solve(self, x: Mapping[Spot, Fraction]) -> Sum:
        """In terms of free unknowns."""
        out: Sum = {}
        for spot, c in x.items():
            if spot in self.sums:
                self.sums[spot] = self.solve(self.sums[spot])
            for free, d in self.sums.get(spot, {spot: Fraction(1)}).items():
                out[free] = out.get(free, Fraction(0)) + c * d
        return {free: c for free, c in out.items() if c}

    def demand(self, x: Mapping[Spot, Fraction]) -> None:
        """This sum is 0."""
        rest = self.solve(x)
        if rest:
            bound = max(rest, key=lambda spot: (spot[0], spot[1], spot[2][1:]))  # the youngest array
            c = rest.pop(bound)
            self.sums[bound] = {spot: -d / c for spot, d in rest.items()}


def _equations(op: Op, system: _System, odd: bool) -> Iterator[Sum]:
    every = (*op.ins, *op.outs)
    for v in op.ins:
        if v.uid not in system.made and not v.zero:  # an input or a constant
            yield from ({spot: Fraction(1)} for spot in spots_of(v))
    system.made |= {v.uid for v in every}
    covered: set[Spot] = set()
    for label in op.labels if op.name != "leaf" else ():
        for cell in cells(label.node):
            at = {i: at_label(every, i, place, label.node, cell) for i, place in label.places.items()}
            covered.update(*at.values())
            if not label.used:
                continue
            for spots in at.values():  # one factor, though the array may have it in parts
                yield from _alike(spots, not all(at.values()))
            if all(at.values()) and odd and op.name in POSITIVE:
                yield from _alike([spot for spots in at.values() for spot in spots], True)
            elif all(at.values()):
                yield from _relation(op, {i: spots[0] for i, spots in at.items()})
    if op.name != "leaf":
        yield from ({spot: Fraction(1)} for v in every for spot in spots_of(v) if spot not in covered)


def _relation(op: Op, spots: Mapping[int, Spot]) -> Iterator[Sum]:
    """The equations of one axis of one operation."""
    n, one = len(op.ins), Fraction(1)
    outs = [spot for i, spot in spots.items() if i >= n]
    ins = {i: spot for i, spot in spots.items() if i < n and not op.ins[i].zero}
    without = [i for i, v in enumerate(op.ins) if i not in spots and not v.zero]
    name = op.name
    if name in ("dot_general", "conv_general_dilated", "mul"):
        if not any(v.zero for v in op.ins):
            yield _merge([(spot, one) for spot in ins.values()] + [(spot, -one) for spot in outs])
    elif name == "div" and not op.ins[0].zero:
        yield _merge([(spot, one if i == 0 else -one) for i, spot in ins.items()] + [(spot, -one) for spot in outs])
    elif name in POWERS or name == "integer_pow":
        power = POWERS.get(name) or Fraction(op.params["y"])
        yield _merge([(spot, power) for spot in ins.values()] + [(spot, -one) for spot in outs])
    elif name in COMPARE or name in ("sign", "is_finite"):
        yield from _alike(list(ins.values()), bool(without))
        yield from ({spot: one} for spot in outs)
    elif name in EQUAL and outs and jnp.issubdtype(op.params.get("new_dtype", jnp.float32), jnp.inexact):
        if name == "select_n":
            yield from ({ins.pop(i): one} for i in (0,) if i in ins)
            without = [i for i in without if i > 0]
        fresh = not spots.keys() & range(n) and not all(v.zero for v in op.ins)  # nothing changes along it
        yield from _alike([*ins.values(), *outs], fresh or (name in ARITHMETIC and bool(without)))
    else:
        yield from ({spot: one} for spot in spots.values())


ARITHMETIC = frozenset("add add_any max min select_n sub".split())  # an operand without the axis is used all along it


def _alike(spots: Sequence[Spot], still: bool) -> Iterator[Sum]:
    """All exponents equal; all 0 if `still`."""
    if still:
        yield from ({spot: Fraction(1)} for spot in spots)
    else:
        yield from (_merge([(spots[0], Fraction(1)), (spot, Fraction(-1))]) for spot in spots[1:])


def _merge(terms: Sequence[tuple[Spot, Fraction]]) -> Sum:
    out: Sum = {}
    for spot, c in terms:
        out[spot] = out.get(spot, Fraction(0)) + c
    return out
