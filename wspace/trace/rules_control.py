"""Rules of the primitives that have a program inside: calls, scan, while, cond."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wspace.trace.terms import Node, find, pin, unify
from wspace.trace.walk import Eqn, Label, Place, Rule, Value, Walk, scan_operands


def call(walk: Walk, eqn: Eqn, ins: list[Value]) -> list[Value]:
    """jit, remat, custom derivatives: as if the program inside stood here."""
    return walk.closed(eqn.params[CALLS[eqn.primitive.name]], ins)


def cond(walk: Walk, eqn: Eqn, ins: list[Value]) -> list[Value]:
    """Every branch moves its results alike; which one is taken can't depend on what is moved, as it is a scalar."""
    results = [walk.closed(branch, ins[1:]) for branch in eqn.params["branches"]]
    return [walk.same(outs) for outs in zip(*results, strict=True)]


def while_(walk: Walk, eqn: Eqn, ins: list[Value]) -> list[Value]:
    """What goes round is moved alike on every turn."""
    p = eqn.params
    n, m = p["cond_nconsts"], p["body_nconsts"]
    carry = [walk.same([v])._replace(zero=False) for v in ins[n + m :]]
    walk.closed(p["cond_jaxpr"], [*ins[:n], *carry])
    outs = walk.closed(p["body_jaxpr"], [*ins[n : n + m], *carry])
    return [walk.same(pair) for pair in zip(carry, outs, strict=True)]


def scan(walk: Walk, eqn: Eqn, ins: list[Value]) -> list[Value]:
    """What is stacked may be moved differently on every turn; what goes round, and constants, alike on all of them."""
    p = eqn.params
    n, m = scan_operands(p)
    turn = Node(p["length"], "scanned")
    for x in ins[m:]:
        unify(turn, x.axes[0])
    carry = [walk.same([v])._replace(zero=False) for v in ins[n:m]]
    carry = [v._replace(names=turn) if k in _counters(p, ins[n:m], n) else v for k, v in enumerate(carry)]
    slices = [_turn(walk, turn, x, walk.value(x.axes[1:], _number(turn, x), x.zero), 1) for x in ins[m:]]
    consts = [walk.same([v]) for v in ins[:n]]
    walk.still += [(v, turn) for v in (*consts, *carry)]
    walk.loops += (turn,)
    outs = walk.closed(p["jaxpr"], [*consts, *carry, *slices])
    walk.loops = walk.loops[:-1]
    ends = [walk.same(pair) for pair in zip(carry, outs, strict=False)]
    stacks = []
    for y in outs[len(carry) :]:
        if y.names is not None:
            pin(y.names, "position")
        stacks.append(_turn(walk, turn, y, walk.value((turn, *y.axes), zero=y.zero), -1))
    return [*ends, *stacks]


def _counters(params: Mapping[str, Any], start: list[Value], consts: int) -> set[int]:
    """What goes round and is the turn's number: from 0, one more each turn, as `fori_loop` has it."""
    body = getattr(params["jaxpr"], "jaxpr", params["jaxpr"])
    made = {eqn.outvars[0]: eqn for eqn in body.eqns if eqn.primitive.name == "add"}

    def counts(k: int) -> bool:
        eqn = made.get(body.outvars[k]) if not hasattr(body.outvars[k], "val") else None
        sides = [] if eqn is None or start[k].shape else eqn.invars
        ones = [v for v in sides if hasattr(v, "val") and v.val == 1]
        return len(ones) == 1 and any(v is body.invars[consts + k] for v in sides)

    return set() if params["reverse"] else {k for k, v in enumerate(start) if v.zero and counts(k)}


def _number(turn: Node, x: Value) -> Node | None:
    """The turns, if what is scanned are their numbers."""
    return turn if x.names is not None and find(x.names) is find(turn) else None


def _turn(walk: Walk, turn: Node, v: Value, out: Value, step: int) -> Value:
    """One turn's slice of a stack, or the stack of the turns' results: the turn is known on both sides."""
    inner = v.axes[1:] if step > 0 else v.axes
    made = [Label(turn, {0: Place(0), 1: None} if step > 0 else {0: None, 1: Place(0)})]
    for k, node in enumerate(inner):
        made.append(Label(node, {0: Place(k + (step > 0)), 1: Place(k + (step < 0))}))
    return walk.record("turn", [v], [out], made)[0]


CALLS = {
    "checkpoint": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
}
CONTROL: dict[str, Rule] = {**dict.fromkeys(CALLS, call), "cond": cond, "scan": scan, "while": while_}
