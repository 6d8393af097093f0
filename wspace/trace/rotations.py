"""From the records of a walk to orthogonal groups: atoms on which only linear maps act, products and lengths.

Along an atom an array is plain (it turns as the group does), even (the same number everywhere, which stays), or it
holds squares (of which only the sum makes sense). A sum of plain arrays turns, a contraction of two doesn't change, the
sum of squares doesn't either. All else depends on the axes, and the atom is pinned: an elementwise product, a largest
entry, a number that is added everywhere.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, TypeAlias

import jax.numpy as jnp

from wspace.core.containers import show
from wspace.core.typing import Path
from wspace.trace.groups import Symmetries
from wspace.trace.permutations import grouped, places, read
from wspace.trace.spots import Spot, at_label, spots_of
from wspace.trace.terms import cells, pin
from wspace.trace.unrolled import take_apart
from wspace.trace.walk import Op, Value, Walk

State: TypeAlias = Literal["plain", "even", "square"]

MOVES = frozenset(
    "broadcast_in_dim concatenate convert_element_type copy cumsum dynamic_slice dynamic_update_slice gather neg pad "
    "reshape rev same scatter scatter-add scatter_add slice split squeeze stack stop_gradient tile transpose turn "
    "unstack".split()
)
SUMS = frozenset("add add_any select_n sub".split())
ALONE = MOVES - frozenset("concatenate dynamic_update_slice gather pad scatter scatter-add scatter_add stack".split())


def rotations(walk: Walk, leaves: Mapping[Path, Value], ones: Collection[Path] = ()) -> Symmetries:
    """The groups of kind "orthogonal". Leaves in `ones` are taken to be 1 everywhere; no group acts on them."""
    taken = take_apart(walk.ops, list(leaves.values()))
    members, touched = places(walk, leaves), read(walk)
    for atom in members:
        if atom not in touched:
            pin(atom, "not read")
    states = _States(leaves, ones)
    for op in walk.ops:
        if op.name not in ("leaf", "output"):
            states.step(op)
    acted = {a: mine for a, found in members.items() if (mine := [m for m in found if m.path not in ones])}
    return grouped("orthogonal", walk, leaves, taken, acted, ones)


def multiplied(walk: Walk, leaves: Mapping[Path, Value]) -> tuple[Path, ...]:
    """Leaves that are multiplied with something entry by entry: gains."""
    known = origins(walk.ops, leaves)
    found = [known[v.uid] for op in walk.ops if op.name == "mul" for v in op.ins if v.uid in known]
    return tuple(dict.fromkeys(found))


def origins(ops: Sequence[Op], leaves: Mapping[Path, Value]) -> dict[int, Path]:
    """Arrays that are one leaf, broadcast, cast, cut or laid out anew: which one, by number."""
    out = {leaf.uid: path for path, leaf in leaves.items()}
    for op in ops:
        found = {out.get(v.uid) for v in op.ins}
        if op.name in ALONE and len(found) == 1 and (path := found.pop()) is not None:
            out |= {v.uid: path for v in op.outs}
    return out


class _States:
    """What is known of every array along every atom; "plain" where nothing is noted."""

    def __init__(self, leaves: Mapping[Path, Value], ones: Collection[Path]) -> None:
        self.known: dict[Spot, State] = {spot: "even" for path in ones for spot in spots_of(leaves[path])}
        self.made = {leaf.uid for leaf in leaves.values()}
        self.names = {leaf.uid: show(path) for path, leaf in leaves.items()}

    def step(self, op: Op) -> None:
        """Pin the atoms that an operation does not turn; note what its results are."""
        every, n = (*op.ins, *op.outs), len(op.ins)
        for v in op.ins:
            if v.uid not in self.made:  # an input, all pinned, or a constant, all even
                self.known |= dict.fromkeys(spots_of(v), "even")
        self.made |= {v.uid for v in every}
        left = {spot for v in every for spot in spots_of(v)}
        for label in op.labels:
            for cell in cells(label.node):
                spots = {i: at_label(every, i, p, label.node, cell) for i, p in label.places.items()}
                left.difference_update(*spots.values())
                if cell.atom.pinned is not None or not label.used:
                    continue
                ins = {i: {self.known.get(s, "plain") for s in at} for i, at in spots.items() if i < n}
                state, why = _result(op, ins, any(i >= n for i in spots)) if all(spots.values()) else (None, op.name)
                if state is None:
                    gains = [self.names[op.ins[i].uid] for i in ins if op.ins[i].uid in self.names]
                    pin(cell.atom, " ".join([why, *gains[-1:]]))
                elif state != "plain":
                    self.known |= {s: state for i, at in spots.items() if i >= n for s in at}
        for spot in left:
            pin(spot[2].atom, op.name)
        if op.name in ALONE and len(op.ins) == 1 and op.ins[0].uid in self.names:
            self.names |= {v.uid: self.names[op.ins[0].uid] for v in op.outs}


def _result(op: Op, states: Mapping[int, set[State]], out: bool) -> tuple[State | None, str]:
    """What comes out along one axis of an operation (if it comes out), or None and why the axis can't turn."""
    name, zero = op.name, {i for i, v in enumerate(op.ins) if v.zero}
    seen: set[State] = set().union(*(s for i, s in states.items() if i not in zero))
    if not seen - {"even"}:
        return ("plain" if name == "same" and zero else "even"), ""
    turning = {i for i, s in states.items() if i not in zero and s != {"even"}}
    kinds = seen - {"even"}
    if len(kinds) > 1 or any(len(s) > 1 for s in states.values()):
        return None, f"{name} of squares and others"
    (state,) = kinds
    even = set(states) - turning - zero
    if name in ("dot_general", "conv_general_dilated"):
        if out:
            return (state, "") if len(turning) == 1 else (None, "batched")
        return (None, "summed") if even else (None, "squares contracted") if state == "square" else (state, "")
    if name == "mul" and len(turning) == 2:
        twice = op.ins[0].uid == op.ins[1].uid and state == "plain"
        return ("square", "") if twice else (None, "multiplied by")
    if name in ("mul", "div"):
        return (state, "") if name == "mul" or turning == {0} else (None, "divided by")
    if name == "square" or (name == "integer_pow" and op.params["y"] == 2):
        return ("square", "") if state == "plain" else (None, name)
    if name in ("reduce_sum", "reduce_window_sum"):
        return (state, "") if out or state == "square" else (None, "summed")
    if name in SUMS:
        free = {0} if name == "select_n" else set()
        return (state, "") if turning == set(range(len(op.ins))) - zero - free else (None, f"{name} of")
    if name in MOVES and jnp.issubdtype(op.params.get("new_dtype", jnp.float32), jnp.inexact):
        filled = name == "pad" and 1 not in zero
        return (None, "uniform") if even or filled else (state, "")
    return None, name
