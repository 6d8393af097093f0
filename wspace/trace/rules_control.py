"""Rules of the primitives that have a program inside: calls, scan, while, cond."""

from __future__ import annotations

from wspace.trace.terms import Node, pin, unify
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
    slices = [_turn(walk, turn, x, walk.value(x.axes[1:], zero=x.zero), 1) for x in ins[m:]]
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
